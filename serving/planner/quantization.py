"""What a checkpoint stores its weights in, and computes in. Pure.

Source: the `quantization_config` that vLLM 0.32 reads, in
vllm/model_executor/layers/quantization/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.planner.config_fields import Fields

_SECTIONS = ("quantization_config", "compression_config", "quantization")
"""What checkpoints call it: most, compressed-tensors of old, and Mistral's params.json."""
_BITS_GIVEN = frozenset({"awq", "awq_marlin", "gptq", "gptq_marlin"})
"""Methods that store integers of so many bits and compute in 16."""


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """Bits of a weight of the linear layers, and whether they are multiplied in FP8. Embeddings and
    norms stay in 16 bits."""

    bits: int = 16
    computes_in_fp8: bool = False


BITS_16 = WeightFormat()
FP8 = WeightFormat(8, computes_in_fp8=True)


def read_weight_format(document: Mapping[str, Any]) -> WeightFormat | None:
    """The format that a model's configuration names, `None` for one that is not known here.

    >>> read_weight_format({"quantization_config": {"quant_method": "awq", "bits": 4}})
    WeightFormat(bits=4, computes_in_fp8=False)
    >>> read_weight_format({})
    WeightFormat(bits=16, computes_in_fp8=False)
    """
    given = (place.get(name) for place in _places(document) for name in _SECTIONS)
    if (found := next(filter(None, given), None)) is None:
        return BITS_16
    if not isinstance(found, Mapping):
        return None
    method = found.get("quant_method")
    if method == "fp8" or found.get("qformat_weight") == "fp8_e4m3" or _is_modelopt_fp8(found):
        return FP8
    if isinstance(method, str) and method in _BITS_GIVEN:
        return _integers(found.get("bits"))
    if method == "compressed-tensors":
        return _compressed_tensors(found.get("config_groups"))
    return None


def quantizes_kv_cache(document: Mapping[str, Any]) -> bool:
    """Whether the checkpoint brings scales for a smaller KV cache.

    Source: `get_kv_cache_quant_algo_string` in vllm/utils/torch_utils.py, and
    `Attention.__init__` in vllm/model_executor/layers/attention/attention.py, vLLM 0.32.

    Raises:
        ConfigError: a section that should say so is no object.
    """
    names = ("kv_cache_scheme", "kv_cache_quant_algo")
    sections = [
        Fields(place).optional_section(name) for place in _places(document) for name in _SECTIONS
    ]
    sections += [section.optional_section("quantization") for section in sections]
    return any(section.get(name) for section in sections for name in names)


def _places(document: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The document and, of one with a vision tower, the language model in it, which is asked last.

    Source: `get_quantization_config` in vllm/transformers_utils/model_arch_config_convertor.py,
    vLLM 0.32.
    """
    inner = document.get("text_config")
    return (document, inner) if isinstance(inner, Mapping) else (document,)


def _is_modelopt_fp8(found: Mapping[str, Any]) -> bool:
    inner = found.get("quantization") or found
    return isinstance(inner, Mapping) and inner.get("quant_algo") == "FP8"


def _integers(bits: Any) -> WeightFormat | None:
    return WeightFormat(bits) if isinstance(bits, int) and 2 <= bits <= 8 else None


def _compressed_tensors(groups: Any) -> WeightFormat | None:
    """The format of the only group of layers; of several nobody here knows the shares."""
    if not isinstance(groups, Mapping) or len(groups) != 1:
        return None
    (group,) = groups.values()
    weights = group.get("weights") if isinstance(group, Mapping) else None
    if not isinstance(weights, Mapping):
        return None
    if weights.get("type") == "float" and weights.get("num_bits") == 8:
        return FP8 if group.get("input_activations") else WeightFormat(8)
    return _integers(weights.get("num_bits")) if weights.get("type") == "int" else None
