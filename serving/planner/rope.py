"""How long sequences may be, which the scaling of rotary position embeddings decides. Pure.

Source: `_get_and_verify_max_len` in vllm/config/model.py and `iter_rope_parameters` in
vllm/transformers_utils/config.py, vLLM 0.32. vLLM also heeds the tokenizer's `model_max_length`,
which is in another file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from serving.planner.config_fields import Fields

_SCALED_ALREADY = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")
"""Types whose `max_position_embeddings` is the scaled one."""
_LONGROPE = ("longrope", "su")
_LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})


class SequenceLimits(NamedTuple):
    """The longest sequence vLLM admits, and how far it goes unasked, `None` for as far."""

    max_model_len: int
    original_model_len: int | None


def read_limits(fields: Fields) -> SequenceLimits:
    """The limits of a language model.

    LongRoPE worsens short sequences, so vLLM stays at the original length unless it is asked.

    Raises:
        ConfigError: a field has no sensible value, or parameters are nested in a way that is not
            known here.

    >>> longrope = {"rope_type": "longrope", "factor": 32.0}
    >>> read_limits(Fields({
    ...     "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
    ...     "rope_scaling": longrope,
    ... }))
    SequenceLimits(max_model_len=131072, original_model_len=4096)
    """
    ropes = _ropes(fields)
    factor = 1.0
    for rope in ropes:
        if _kind(rope) not in _SCALED_ALREADY:
            factor = _factor(rope, factor)
    longest = int(fields.size("max_position_embeddings") * factor)
    original = "original_max_position_embeddings"
    if fields.get(original) and any(_kind(rope) in _LONGROPE for rope in ropes):
        return SequenceLimits(longest, fields.size(original))
    return SequenceLimits(longest, None)


def _ropes(fields: Fields) -> list[Fields]:
    """The parameters of each kind of layer, or those of all layers."""
    name = "rope_parameters" if fields.get("rope_parameters") else "rope_scaling"
    rope = fields.optional_section(name)
    if rope.document and _LAYER_TYPES.issuperset(rope.document):
        return [rope.section(kind) for kind, inner in rope.document.items() if inner]
    for kind, inner in rope.document.items():
        if isinstance(inner, Mapping):
            raise rope.unknown(kind, "nests parameters in a way that is not known here")
    return [rope]


def _kind(rope: Fields) -> object:
    return rope.get("rope_type") or rope.get("type")


def _factor(rope: Fields, otherwise: float) -> float:
    factor = rope.get("factor")
    if factor is None:
        return otherwise
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < 1e6:
        raise rope.invalid("factor", "must be a positive number")
    return float(factor)
