"""What a model's configuration says of its attention and its size, read without a doubt left over.

A KV-cache figure for attention that nobody has looked at would be wrong in silence, so a model type
is read only if its rules in vLLM 0.32 and Transformers 5.19 are known here. Start with
`read_model_config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from serving.errors import ConfigError
from serving.planner.architectures import check_architecture
from serving.planner.config_fields import MAX_LAYERS, Fields
from serving.planner.mistral_params import is_mistral_params, to_hugging_face
from serving.planner.quantization import (
    BITS_16,
    WeightFormat,
    quantizes_kv_cache,
    read_weight_format,
)
from serving.planner.rope import read_limits
from serving.planner.vision import count_vision_parameters

_DEFAULTS: dict[str, dict[str, Any]] = {
    "deepseek_v2": {},
    "deepseek_v3": {},
    "llama": {"num_key_value_heads": None},
    "ministral": {"sliding_window": 4096},
    "ministral3": {"head_dim": 128},
    "mistral": {"sliding_window": 4096},
    "mixtral": {},
    "qwen2": {},
    "qwen3": {"head_dim": 128},
}
"""The model types that are known, with what their configuration classes assume of attention where
config.json says nothing. Source: `configuration_*.py` of transformers 5.19."""

_WRAPPERS = frozenset({"llava", "mistral3"})
"""Types that hold the language model in `text_config`; a vision tower has no KV cache."""
_MLA = frozenset({"deepseek_v2", "deepseek_v3"})
_OPTIONAL_WINDOW = frozenset({"qwen2", "qwen3"})
_UNIFORM = frozenset({"mixtral"})
"""vllm/model_executor/models/mixtral.py gives all layers the same window."""

_UNKNOWN_ATTENTION = {
    "attention_chunk_size": "attention in chunks",
    "index_topk": "sparse attention with an index",
    "compress_ratios": "compressed attention",
    "dual_chunk_attention_config": "attention in two kinds of chunks",
    "is_encoder_decoder": "cross attention",
}
"""Fields that, where they say something, change the KV cache of a type that is known."""


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-head latent attention: one vector per token and layer, whatever the number of heads."""

    kv_lora_rank: int
    qk_rope_head_dim: int
    qk_nope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None

    @property
    def head_size(self) -> int:
        """Elements of the cached vector."""
        return self.kv_lora_rank + self.qk_rope_head_dim


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts in every layer from `num_dense_layers` on.

    `num_active` of `num_routed` take part in a token, besides `num_shared` that always do.
    """

    num_routed: int
    num_active: int
    intermediate_size: int
    num_shared: int = 0
    num_dense_layers: int = 0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A decoder's shape.

    `windows` has an entry per layer: how many tokens it attends to, `None` for all of them.
    `original_model_len` is how far vLLM goes unasked, `None` for all of `max_model_len`. `dtype` is
    that of the weights, `None` if the configuration leaves it to the weight files.
    `quantizes_kv_cache` tells of a checkpoint that brings scales for a smaller cache; `weights` is
    `None` for a quantization that is not known here, on which the KV cache does not depend.
    """

    windows: tuple[int | None, ...]
    num_heads: int
    num_kv_heads: int
    head_size: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    max_model_len: int
    tie_embeddings: bool
    original_model_len: int | None = None
    dtype: str | None = None
    quantizes_kv_cache: bool = False
    weights: WeightFormat | None = BITS_16
    latent: Latent | None = None
    experts: Experts | None = None
    vision_parameters: int = 0

    @property
    def default_model_len(self) -> int:
        """The longest sequence in tokens where vLLM's `max_model_len` is left open."""
        return self.original_model_len or self.max_model_len

    @property
    def num_layers(self) -> int:
        return len(self.windows)

    @property
    def has_window(self) -> bool:
        """Whether any layer forgets."""
        return any(window is not None for window in self.windows)


def read_model_config(document: Mapping[str, Any]) -> ModelConfig:
    """The model that a Hugging Face config.json, or Mistral's params.json, describes.

    Raises:
        ConfigError: `model_config_unknown` for a type or attention that is not known here,
            `model_config_invalid` for a field that is missing or no sensible value; `param` names
            the field.

    >>> read_model_config({
    ...     "model_type": "mistral", "num_hidden_layers": 2, "num_attention_heads": 9,
    ...     "num_key_value_heads": 3, "hidden_size": 576, "intermediate_size": 1536,
    ...     "vocab_size": 49152, "max_position_embeddings": 8192, "sliding_window": 512,
    ... }).windows
    (512, 512)
    >>> read_model_config({"model_type": "mamba"})
    Traceback (most recent call last):
    serving.errors.ConfigError: model_type 'mamba' is not one whose KV cache is known
    """
    if is_mistral_params(document):
        document = to_hugging_face(document)
    weights, quantized_cache = read_weight_format(document), quantizes_kv_cache(document)
    fields = whole = Fields(document)
    if (outer := whole.text("model_type")) in _WRAPPERS:
        check_architecture(fields, outer)
        fields = fields.section("text_config").with_defaults({"model_type": "mistral"})
    model_type = fields.text("model_type")
    if model_type not in _DEFAULTS:
        raise fields.unknown("model_type", "is not one whose KV cache is known", sorted(_DEFAULTS))
    model = _read_text_model(fields.with_defaults(_DEFAULTS[model_type]), model_type)
    return replace(
        model,
        weights=weights,
        quantizes_kv_cache=quantized_cache,
        vision_parameters=count_vision_parameters(whole, outer, text_hidden_size=model.hidden_size),
    )


def _read_text_model(fields: Fields, model_type: str) -> ModelConfig:
    check_architecture(fields, model_type)
    for name, attention in _UNKNOWN_ATTENTION.items():
        if fields.get(name):
            raise fields.unknown(name, f"means {attention}, whose KV cache is not known here")
    num_heads = fields.size("num_attention_heads")
    latent = _latent(fields) if model_type in _MLA else None
    limits = read_limits(fields)
    return ModelConfig(
        windows=_windows(fields, model_type),
        num_heads=num_heads,
        num_kv_heads=1 if latent else _num_kv_heads(fields, num_heads),
        head_size=latent.head_size if latent else _head_size(fields, num_heads),
        hidden_size=fields.size("hidden_size"),
        intermediate_size=fields.size("intermediate_size"),
        vocab_size=fields.size("vocab_size"),
        max_model_len=limits.max_model_len,
        original_model_len=limits.original_model_len,
        tie_embeddings=bool(fields.get("tie_word_embeddings")),
        dtype=_dtype(fields),
        latent=latent,
        experts=_experts(fields),
    )


def _dtype(fields: Fields) -> str | None:
    name = "dtype" if fields.get("dtype") else "torch_dtype"
    return fields.text(name) if fields.get(name) else None


def _windows(fields: Fields, model_type: str) -> tuple[int | None, ...]:
    """Each layer's window.

    A window without `layer_types` is every layer's; 0 is none.

    Source: `ModelConfig.__post_init__` (config/model.py), `EngineArgs.create_engine_config`
    (engine/arg_utils.py), model_executor/models/llama.py; vLLM 0.32.
    """
    num_layers = fields.size("num_hidden_layers", most=MAX_LAYERS)
    window = _window(fields, model_type)
    kinds = fields.get("layer_types")
    if kinds is None:
        return (window,) * num_layers
    if model_type in _MLA:
        raise fields.unknown("layer_types", "is not known of latent attention")
    if not isinstance(kinds, list) or len(kinds) != num_layers:
        raise fields.invalid("layer_types", f"must list the kinds of {num_layers} layers")
    if model_type in _UNIFORM and any(kind != kinds[0] for kind in kinds):
        raise fields.unknown("layer_types", "mixes kinds, which this model_type does not do")
    return tuple(_layer_window(fields, index, window) for index in range(num_layers))


def _window(fields: Fields, model_type: str) -> int | None:
    if model_type in _OPTIONAL_WINDOW:
        if fields.get("use_sliding_window"):
            raise fields.unknown("use_sliding_window", "is not known of this model_type")
        return None
    if not fields.get("sliding_window"):
        return None
    if model_type in _MLA:
        raise fields.unknown("sliding_window", "is not known of latent attention")
    return fields.size("sliding_window")


def _layer_window(fields: Fields, index: int, window: int | None) -> int | None:
    kind = fields.get("layer_types")[index]
    if kind == "full_attention":
        return None
    if kind != "sliding_attention":
        raise ConfigError(
            f"layer_types[{index}] is {kind!r}, an attention whose KV cache is not known here",
            code="model_config_unknown",
            param=f"layer_types[{index}]",
            hint="known: full_attention, sliding_attention",
        )
    if window is None:
        raise fields.invalid("sliding_window", "must be given, for layer_types has sliding ones")
    return window


def _num_kv_heads(fields: Fields, num_heads: int) -> int:
    """Source: `Attention.__init__` in vllm/model_executor/layers/attention/attention.py, which
    insists on equal shares, vLLM 0.32."""
    num_kv_heads = fields.size("num_key_value_heads", null=num_heads)
    if num_heads % num_kv_heads:
        raise fields.invalid("num_key_value_heads", f"must divide num_attention_heads {num_heads}")
    return num_kv_heads


def _head_size(fields: Fields, num_heads: int) -> int:
    """`head_dim`; where it is missing or 0 the heads share the hidden size.

    Source: `ModelArchConfigConvertorBase.get_head_size`, vLLM 0.32.
    """
    if fields.get("head_dim"):
        return fields.size("head_dim")
    shared = fields.size("hidden_size") // num_heads
    if shared == 0:
        raise fields.invalid("hidden_size", f"must give each of {num_heads} heads an element")
    return shared


def _latent(fields: Fields) -> Latent:
    """Source: `get_head_size` as above, and `MLAAttention.get_kv_cache_spec`, vLLM 0.32."""
    return Latent(
        kv_lora_rank=fields.size("kv_lora_rank"),
        qk_rope_head_dim=fields.size("qk_rope_head_dim"),
        qk_nope_head_dim=fields.size("qk_nope_head_dim"),
        v_head_dim=fields.size("v_head_dim"),
        q_lora_rank=fields.size("q_lora_rank") if fields.get("q_lora_rank") else None,
    )


def _experts(fields: Fields) -> Experts | None:
    """The experts by Mixtral's names for them, or DeepSeek's."""
    if fields.get("num_local_experts"):
        return Experts(
            num_routed=fields.size("num_local_experts"),
            num_active=fields.size("num_experts_per_tok"),
            intermediate_size=fields.size("intermediate_size"),
        )
    if fields.get("n_routed_experts"):
        return Experts(
            num_routed=fields.size("n_routed_experts"),
            num_active=fields.size("num_experts_per_tok"),
            intermediate_size=fields.size("moe_intermediate_size"),
            num_shared=fields.count("n_shared_experts"),
            num_dense_layers=fields.count("first_k_dense_replace"),
        )
    return None
