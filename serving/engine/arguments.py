"""A model's settings as vLLM server options and environment: pure, so that GPU forms are tested
without a GPU."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from serving.errors import ConfigError
from serving.planner.placement import Placement
from serving.settings.engine import ResourceSettings
from serving.settings.model import ModelSettings

GIB = 1024**3
_OPTION_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

OWNED_OPTIONS = frozenset(
    {
        "model", "served-model-name", "host", "port", "uds", "api-key", "root-path", "middleware",
        "ssl-keyfile", "ssl-certfile", "lora-modules", "enable-lora", "tensor-parallel-size",
        "pipeline-parallel-size", "distributed-executor-backend", "trust-request-chat-template",
        "enable-log-requests", "enable-log-outputs", "log-error-stack", "trust-remote-code",
        "config", "kv-events-config", "tool-parser-plugin", "reasoning-parser-plugin", "worker-cls",
        "worker-extension-cls", "logits-processors", "allowed-local-media-path",
    }
)  # fmt: skip
"""vLLM options that Galerne sets itself, or that would log prompts, run foreign code or open a way
around the gateway."""


_NO_DOMAIN = "none.invalid"
"""No host has this name (RFC 2606). Without a list vLLM fetches whatever a client's `image_url`
names, from inside of the operator's network; an operator who wants that names the domains in
`extra_args`. Images in `data:` URLs need none."""


def engine_arguments(
    model_id: str, model: ModelSettings, *, weights: Path, placement: Placement, kv_events: str
) -> list[str]:
    """vLLM server options for one replica, as for its command line.

    `kv_events` is the address, one of ZeroMQ, at which the engine tells what it caches.

    Prefix caching, chunked prefill and the hybrid KV-cache manager are asked for by name, so that a
    model that cannot have them fails loudly instead of losing them in silence.

    Raises:
        ConfigError: `extra_args` names an option that Galerne owns.

    Source: option names from vllm/engine/arg_utils.py and
        vllm/entrypoints/launchers/cli_args.py, vLLM 0.32.
    """
    engine = model.engine
    options: dict[str, object] = {
        "model": weights,
        "served-model-name": model_id,
        "max-model-len": engine.max_model_len,
        "max-num-seqs": engine.max_num_seqs,
        "max-num-batched-tokens": engine.max_num_batched_tokens,
        "block-size": engine.block_size,
        "dtype": engine.dtype,
        "tokenizer-mode": engine.tokenizer_mode,
        "config-format": engine.config_format,
        "load-format": engine.load_format,
        "reasoning-parser": engine.reasoning_parser,
        "enforce-eager": engine.enforce_eager,
        "enable-prefix-caching": True,
        "enable-chunked-prefill": True,
        "no-disable-hybrid-kv-cache-manager": True,
        "enable-prompt-tokens-details": True,
        "disable-uvicorn-access-log": True,
        "allowed-media-domains": [_NO_DOMAIN],
        "tensor-parallel-size": engine.tensor_parallel_size,
        "pipeline-parallel-size": engine.pipeline_parallel_size,
        "distributed-executor-backend": placement.executor,
        "kv-events-config": json.dumps(
            {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": kv_events}
        ),
    }
    options |= _memory_options(model) | _tool_options(engine.tool_call_parser)
    options |= _adapter_options(model.adapters) | _extra_options(model_id, engine.extra_args)
    return _command_line(options)


def engine_environment(resources: ResourceSettings, *, num_cores: int) -> dict[str, str]:
    """Environment variables of a replica's process, to be set before vLLM is imported.

    On CPU the model runs inside EngineCore (executor `uni`). vLLM would put it into a child of its
    own to bind OpenMP threads there, and EngineCore would wait for that child by spinning: a whole
    core burnt, and on a small node every other process starved for seconds (ADR 6).

    Args:
        num_cores: cores this process may use, at least 1. Without a reservation
            (`resources.num_cpus` below 1) all but one compute; that one is for everything else.

    Source: `CpuPlatform.check_and_update_config` in vllm/platforms/cpu.py, vLLM 0.32; Ray sets
    OMP_NUM_THREADS to the actor's `num_cpus`, at least 1.

    >>> cpu = ResourceSettings(device="cpu", num_cpus=0)
    >>> engine_environment(cpu, num_cores=8)["OMP_NUM_THREADS"]
    '7'
    >>> engine_environment(ResourceSettings(device="gpu"), num_cores=8)
    {'VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES': '0', 'VLLM_MEDIA_URL_ALLOW_REDIRECTS': '0'}
    """
    # Whole hashes: those of following blocks cannot be made of a part of one.
    environment = {
        "VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES": "0",
        # An allowed domain must not lead on to one that is not.
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    }
    if resources.device == "gpu":
        return environment
    num_threads = int(resources.num_cpus) or max(num_cores - 1, 1)
    return {
        **environment,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_NUM_THREADS": str(num_threads),
    }


def _memory_options(model: ModelSettings) -> dict[str, object]:
    engine = model.engine
    options: dict[str, object] = {}
    if engine.kv_cache_gib is not None:
        options["kv-cache-memory-bytes"] = int(engine.kv_cache_gib * GIB)
    if model.resources.device == "gpu":
        options["gpu-memory-utilization"] = engine.gpu_memory_utilization
    return options


def _tool_options(parser: str | None) -> dict[str, object]:
    return {} if parser is None else {"tool-call-parser": parser, "enable-auto-tool-choice": True}


def _adapter_options(adapters: Mapping[str, Path]) -> dict[str, object]:
    if not adapters:
        return {}
    modules = [f"{name}={path.expanduser()}" for name, path in adapters.items()]
    return {"enable-lora": True, "lora-modules": modules}


def _extra_options(model_id: str, extra: Mapping[str, object]) -> dict[str, object]:
    options: dict[str, object] = {}
    for name, value in extra.items():
        option = name.replace("_", "-")
        _check_extra(option, value, param=f"models.{model_id}.engine.extra_args.{name}")
        options |= {f"no-{option}": True} if value is False else {option: value}
    return options


def _check_extra(name: str, value: object, *, param: str) -> None:
    """Refuse what vLLM's parser would read as an option that Galerne owns.

    Raises:
        ConfigError: `engine_option_owned` or `engine_option_invalid`.
    """
    words = value if isinstance(value, list) else [value]
    if not _OPTION_NAME.fullmatch(name) or any(str(word).startswith("--") for word in words):
        raise ConfigError(
            f"extra_args.{name} is not an option with a value",
            code="engine_option_invalid",
            param=param,
            hint="write the name without dashes in front, and the value apart: {seed: 1}",
        )
    # argparse completes abbreviations, so a beginning of an owned name is that name.
    if owned := [option for option in sorted(OWNED_OPTIONS) if option.startswith(name)]:
        raise ConfigError(
            f"extra_args may not set {owned[0]}: Galerne sets it itself",
            code="engine_option_owned",
            param=param,
            hint="remove it, or use the named setting in `galerne config schema`",
        )


def _command_line(options: Mapping[str, object]) -> list[str]:
    """`--name value` pairs; `True` becomes a bare flag, `False` and `None` are left out."""
    words: list[str] = []
    for name, value in options.items():
        if value is None or value is False:
            continue
        words.append(f"--{name}")
        if isinstance(value, list):
            words.extend(str(item) for item in value)
        elif value is not True:
            words.append(str(value))
    return words
