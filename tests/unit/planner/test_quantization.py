"""Formats of weights, as checkpoints name them."""

from __future__ import annotations

from typing import Any

import pytest

from serving.planner.quantization import (
    BITS_16,
    FP8,
    WeightFormat,
    quantizes_kv_cache,
    read_weight_format,
)

SCHEME = {"num_bits": 8, "type": "float", "strategy": "tensor"}


def compressed(weights: dict[str, Any], activations: dict[str, Any] | None = None) -> Any:
    group = {"weights": weights, "input_activations": activations}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, BITS_16),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, FP8),
        ({"quant_algo": "FP8"}, FP8),
        ({"quantization": {"quant_algo": "FP8"}}, FP8),
        ({"quant_method": "gptq", "bits": 8}, WeightFormat(8)),
        ({"quant_method": "awq", "bits": 4}, WeightFormat(4)),
        (compressed({"type": "float", "num_bits": 8}, {"num_bits": 8}), FP8),
        (compressed({"type": "float", "num_bits": 8}), WeightFormat(8)),
        (compressed({"type": "int", "num_bits": 4}), WeightFormat(4)),
    ],
)
def test_known_formats(config: Any, expected: WeightFormat) -> None:
    assert read_weight_format({"quantization_config": config}) == expected


@pytest.mark.parametrize(
    "config",
    [
        {"quant_method": "exl3"},
        {"quant_method": "gptq"},
        {"quant_method": "gptq", "bits": "4"},
        {"quant_method": "compressed-tensors", "config_groups": {"a": {}, "b": {}}},
        {"quant_method": ["fp8"]},
        {"quant_method": "compressed-tensors", "config_groups": {"a": None}},
        {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": "x"}}},
        compressed({"type": "float", "num_bits": 4}),
        "fp8",
    ],
)
def test_unknown_formats_are_not_guessed(config: Any) -> None:
    assert read_weight_format({"quantization_config": config}) is None


def test_mistrals_own_format() -> None:
    assert read_weight_format({"quantization": {"qformat_weight": "fp8_e4m3"}}) == FP8


@pytest.mark.parametrize("name", ["quantization_config", "compression_config"])
def test_a_language_model_inside_another_may_name_its_own_format(name: str) -> None:
    inner = {"text_config": {name: {"quant_method": "fp8"}}}
    assert read_weight_format(inner) == FP8
    awq = {"quant_method": "awq", "bits": 4}
    assert read_weight_format(inner | {"quantization_config": awq}) == WeightFormat(4)


@pytest.mark.parametrize(
    "section",
    [
        {"quant_method": "compressed-tensors", "kv_cache_scheme": SCHEME},
        {"quant_method": "modelopt", "kv_cache_quant_algo": "FP8"},
        {"quant_method": "modelopt", "quantization": {"kv_cache_quant_algo": "FP8"}},
    ],
)
def test_a_quantized_kv_cache_is_found_wherever_it_is_named(section: Any) -> None:
    text = {"model_type": "mistral"}
    assert quantizes_kv_cache({"quantization_config": section} | text)
    assert quantizes_kv_cache({"quantization_config": section, "text_config": text})
    assert quantizes_kv_cache({"text_config": text | {"quantization_config": section}})
    assert quantizes_kv_cache({"quantization": section})


def test_quantized_weights_alone_leave_the_kv_cache_as_it_is() -> None:
    weights_only = compressed({"type": "int", "num_bits": 4}) | {"kv_cache_scheme": None}
    assert not quantizes_kv_cache({"quantization_config": weights_only, "text_config": {}})
