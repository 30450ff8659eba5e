"""Engine options that settings leave open and the planner fills in. Pure.

`galerne up` tells of them before anything starts, the replica fills them in when it has the model's
configuration: both ask here. Start with `planned_chunk`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from serving.errors import ConfigError
from serving.planner.chunk import ChunkChoice, choose_chunk, lengths_of
from serving.planner.engine_device import CPU, EngineDevice, gpu_device
from serving.planner.kv_cache import KvLayout, KvOptions, kv_layout, plan_kv_cache
from serving.planner.model_config import ModelConfig
from serving.settings.model import ModelSettings

_GIB = 1024**3
_DECIDED_ELSEWHERE = frozenset({"max-num-batched-tokens", "disable-sliding-window"})
"""Of `engine.extra_args`: either settles the matter."""


def planned_chunk(model: ModelSettings, config: ModelConfig) -> ChunkChoice | None:
    """The prefill chunk for this model, `None` if that is not for the planner to say.

    It is not where settings say it already, where no layer has a window, and where the cache is one
    that the planner does not know.
    """
    extra = by_option(model.engine.extra_args)
    has_said = model.engine.max_num_batched_tokens is not None or _DECIDED_ELSEWHERE & extra.keys()
    if has_said or not config.has_window:
        return None
    try:
        layout = _layout(model, config)
    except ConfigError:
        return None
    return choose_chunk(
        layout,
        max_model_len=_max_model_len(model, config),
        max_num_seqs=model.engine.max_num_seqs,
        device=_device(model),
    )


def with_chosen_chunk(model: ModelSettings, config: ModelConfig) -> ModelSettings:
    """The settings with the chunk that `planned_chunk` chooses, if it chooses one.

    >>> model = ModelSettings.model_validate({"weights": {"source": "demo"}})
    >>> from serving.planner.model_config import read_model_config
    >>> sizes = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size",
    ...     "intermediate_size", "vocab_size")
    >>> mistral = {"model_type": "mistral", "max_position_embeddings": 32768}
    >>> config = read_model_config(dict.fromkeys(sizes, 64) | mistral)
    >>> with_chosen_chunk(model, config).engine.max_num_batched_tokens
    1024
    """
    choice = planned_chunk(model, config)
    if choice is None or choice.tokens is None:
        return model
    engine = model.engine.model_copy(update={"max_num_batched_tokens": choice.tokens})
    return model.model_copy(update={"engine": engine})


def chosen_chunk(model: ModelSettings, config: ModelConfig) -> str | None:
    """What was chosen for a person to read, and why; `None` if nothing was."""
    choice = planned_chunk(model, config)
    if choice is None or choice.tokens is None:
        return None
    return (
        f"prompts in chunks of {choice.tokens:,} tokens: {choice.reason}; "
        f"{_gain(model, config, choice, tokens=choice.tokens)}{_assumption(_device(model))}"
    )


def _gain(model: ModelSettings, config: ModelConfig, choice: ChunkChoice, *, tokens: int) -> str:
    """How many sequences fit, if the settings say in how much memory."""
    longest = f"sequences of {_max_model_len(model, config):,} tokens"
    if model.engine.kv_cache_gib is None or model.engine.pipeline_parallel_size > 1:
        return f"{choice.gain_ratio:.1f} times as many {longest} fit"
    default = _device(model).default_chunk_tokens
    fitting, before = (_num_sequences(model, config, n) for n in (tokens, default))
    return f"{fitting} {longest} fit, {before} with vLLM's default of {default:,}"


def _assumption(device: EngineDevice) -> str:
    if not device.is_default_assumed:
        return ""
    return (
        f"; vLLM's default is taken to be {device.default_chunk_tokens:,}, that of GPUs from 70 GiB"
        ", for resources.accelerator_type names none that is known"
    )


def _num_sequences(model: ModelSettings, config: ModelConfig, chunk_tokens: int) -> int:
    lengths = lengths_of(_max_model_len(model, config), chunk_tokens, device=_device(model))
    kv_bytes = int((model.engine.kv_cache_gib or 0) * _GIB)
    try:
        plan = plan_kv_cache(_layout(model, config), lengths, kv_bytes=kv_bytes)
    except ConfigError:
        return 0
    return int(plan.max_concurrency)


def _device(model: ModelSettings) -> EngineDevice:
    """Each further pipeline stage computes a step of its own meanwhile.

    Source: `VllmConfig.max_concurrent_batches`, and `EngineArgs.get_batch_defaults`, which
    multiplies a CPU's default by the number of processes; vLLM 0.32.
    """
    if model.resources.device == "cpu":
        default = CPU.default_chunk_tokens * model.engine.num_gpus
        device = replace(CPU, default_chunk_tokens=default)
    else:
        device = gpu_device(model.resources.accelerator_type)
    num_more = model.engine.pipeline_parallel_size - 1
    return replace(device, num_concurrent_steps=device.num_concurrent_steps + num_more)


def _layout(model: ModelSettings, config: ModelConfig) -> KvLayout:
    """
    Raises:
        ConfigError: as `kv_layout`.
    """
    engine = model.engine
    options = KvOptions(
        block_size=engine.block_size,
        kv_dtype=str(by_option(engine.extra_args).get("kv-cache-dtype", "auto")),
        dtype=engine.dtype,
        tensor_parallel_size=engine.tensor_parallel_size,
    )
    return kv_layout(config, options, device=_device(model))


def _max_model_len(model: ModelSettings, config: ModelConfig) -> int:
    return model.engine.max_model_len or config.default_model_len


def by_option(extra: Mapping[str, object]) -> dict[str, object]:
    """`extra_args` by vLLM's spelling."""
    return {name.replace("_", "-"): value for name, value in extra.items()}
