"""Mistral's own configuration format, params.json, in Hugging Face's names. Pure.

Source: vllm/transformers_utils/configs/mistral.py, vLLM 0.32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.planner.config_fields import MAX_LAYERS, Fields

_NAMES = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "hidden_dim": "intermediate_size",
    "tied_embeddings": "tie_word_embeddings",
}
_REQUIRED = ("dim", "n_layers", "n_heads", "n_kv_heads", "hidden_dim", "vocab_size")
_MOE_NAMES = {
    "num_experts": "n_routed_experts",
    "num_experts_per_tok": "num_experts_per_tok",
    "expert_hidden_dim": "moe_intermediate_size",
    "num_shared_experts": "n_shared_experts",
    "first_k_dense_replace": "first_k_dense_replace",
}
_MAX_POSITION_EMBEDDINGS = 128_000
"""What vLLM assumes where params.json names no limit."""


def is_mistral_params(document: Mapping[str, Any]) -> bool:
    """Whether it is a params.json rather than a config.json."""
    return "n_layers" in document and "num_hidden_layers" not in document


def to_hugging_face(params: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json that vLLM makes of a params.json.

    Raises:
        ConfigError: `model_config_unknown` or `model_config_invalid`, naming the field.

    >>> sizes = dict(dim=8, n_layers=4, n_heads=2, n_kv_heads=1, hidden_dim=16, vocab_size=100)
    >>> to_hugging_face(sizes | {"sliding_window": [None, 8]})["layer_types"]
    ['full_attention', 'sliding_attention', 'full_attention', 'sliding_attention']
    """
    fields = Fields(params)
    if "model_type" in params and params["model_type"] != "transformer":
        raise fields.unknown("model_type", "is not one whose KV cache is known", ["transformer"])
    if fields.optional_section("multimodal").get("whisper_model_args"):
        raise fields.unknown("multimodal", "has an audio encoder, whose KV cache is not known here")
    for name in _REQUIRED:
        fields.size(name)
    config = {_NAMES.get(name, name): value for name, value in params.items()}
    config.pop("architectures", None)  # vLLM sets it by the same fields as the type
    config.setdefault("max_position_embeddings", _MAX_POSITION_EMBEDDINGS)
    config.setdefault("sliding_window", None)
    return config | _layer_types(fields) | _experts(fields) | _vision(fields)


def _layer_types(fields: Fields) -> dict[str, Any]:
    """A list of windows is a pattern that repeats; a number is every layer's window."""
    windows = fields.get("sliding_window")
    if not isinstance(windows, list):
        return {}
    num_layers = fields.size("n_layers", most=MAX_LAYERS)
    sizes = [size for size in windows if size is not None]
    if any(size != sizes[0] for size in sizes) or not windows or num_layers % len(windows):
        raise fields.invalid("sliding_window", "must be a pattern of one window that fits n_layers")
    pattern = ["full_attention" if size is None else "sliding_attention" for size in windows]
    return {
        "layer_types": pattern * (num_layers // len(windows)),
        "sliding_window": sizes[0] if sizes else None,
    }


def _experts(fields: Fields) -> dict[str, Any]:
    """The model type, and the fields of a mixture of experts.

    One with shared experts, or with latent attention, runs as DeepSeek's architecture.
    """
    has_latent = bool(fields.get("qk_nope_head_dim"))
    if not fields.get("moe"):
        return {"model_type": "deepseek_v3" if has_latent else "mistral"}
    moe = fields.section("moe")
    if moe.get("num_shared_experts"):
        named = {hf: moe.get(name) for name, hf in _MOE_NAMES.items()}
        return {"model_type": "deepseek_v3", **named}
    if has_latent:
        raise moe.unknown("num_shared_experts", "is not known of latent attention")
    return {
        "model_type": "mixtral",
        "num_local_experts": moe.get("num_experts"),
        "num_experts_per_tok": moe.get("num_experts_per_tok"),
    }


def _vision(fields: Fields) -> dict[str, Any]:
    """The vision tower, by either of its names.

    Source: `VisionEncoderArgs` in vllm/model_executor/models/pixtral.py, vLLM 0.32.
    """
    multimodal = fields.optional_section("multimodal")
    place, name = fields, "vision_encoder"
    if multimodal.get("vision_encoder_args"):
        place, name = multimodal, "vision_encoder_args"
    tower = place.optional_section(name)
    if not tower.document:
        return {}
    merges = tower.get("mm_projector_id") == "patch_merge"
    return {
        "vision_config": {**tower.document, "model_type": "pixtral"},
        "spatial_merge_size": tower.get("spatial_merge_size") if merges else None,
    }
