"""A model's configuration is understood, or refused by the name of the field that is not."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import ConfigError
from serving.planner.model_config import Experts, read_model_config

MISTRAL: dict[str, Any] = {
    "model_type": "mistral", "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 2, "hidden_size": 1024, "intermediate_size": 4096, "vocab_size": 32000,
    "max_position_embeddings": 8192, "sliding_window": None,
}  # fmt: skip
DEEPSEEK = MISTRAL | {
    "model_type": "deepseek_v3", "kv_lora_rank": 512, "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128, "v_head_dim": 128, "q_lora_rank": None,
}  # fmt: skip
PARAMS: dict[str, Any] = {
    "dim": 1024, "n_layers": 4, "n_heads": 8, "n_kv_heads": 2, "head_dim": 128,
    "hidden_dim": 4096, "vocab_size": 32000,
}  # fmt: skip
MIXED = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in MISTRAL.items() if key != name}


def refusal(document: dict[str, Any]) -> ConfigError:
    with pytest.raises(ConfigError) as refused:
        read_model_config(document)
    assert refused.value.hint
    return refused.value


@pytest.mark.parametrize(
    ("document", "windows"),
    [
        (MISTRAL, (None,) * 4),
        (MISTRAL | {"sliding_window": 0}, (None,) * 4),
        (MISTRAL | {"sliding_window": 512}, (512,) * 4),
        (MISTRAL | {"sliding_window": 64, "layer_types": MIXED}, (None, 64, 64, None)),
        (MISTRAL | {"sliding_window": 64, "layer_types": ["full_attention"] * 4}, (None,) * 4),
        (without("sliding_window"), (4096,) * 4),
        (without("sliding_window") | {"model_type": "llama"}, (None,) * 4),
        (without("sliding_window") | {"model_type": "mixtral"}, (None,) * 4),
        (MISTRAL | {"model_type": "qwen2", "sliding_window": 512}, (None,) * 4),
        ({"model_type": "mistral3", "text_config": MISTRAL | {"sliding_window": 8}}, (8,) * 4),
        ({"model_type": "llava", "text_config": without("model_type")}, (None,) * 4),
        (PARAMS, (None,) * 4),
        (PARAMS | {"sliding_window": 16}, (16,) * 4),
        (PARAMS | {"sliding_window": [None, 16]}, (None, 16, None, 16)),
        (PARAMS | {"sliding_window": [None]}, (None,) * 4),
    ],
)
def test_windows_are_those_of_each_layer(
    document: dict[str, Any], windows: tuple[int | None, ...]
) -> None:
    assert read_model_config(document).windows == windows


def test_both_formats_describe_the_same_model() -> None:
    params = PARAMS | {"max_position_embeddings": 8192, "tied_embeddings": False}
    assert read_model_config(params) == read_model_config(MISTRAL)


@pytest.mark.parametrize(
    ("changed", "head_size"),
    [
        ({}, 128),
        ({"head_dim": 160}, 160),
        ({"head_dim": 0}, 128),
        ({"hidden_size": 512}, 64),
        ({"hidden_size": 512, "model_type": "ministral3"}, 128),
    ],
)
def test_heads_share_the_hidden_size_unless_theirs_is_given(
    changed: dict[str, Any], head_size: int
) -> None:
    assert read_model_config(MISTRAL | changed).head_size == head_size


def test_latent_attention_caches_one_vector() -> None:
    model = read_model_config(DEEPSEEK)
    assert model.latent is not None
    assert (model.num_kv_heads, model.head_size) == (1, 576)


def test_every_head_has_its_own_keys_where_the_number_is_null_or_a_llama_leaves_it_out() -> None:
    assert read_model_config(MISTRAL | {"num_key_value_heads": None}).num_kv_heads == 8
    llama = without("num_key_value_heads") | {"model_type": "llama"}
    assert read_model_config(llama).num_kv_heads == 8


@pytest.mark.parametrize(
    ("document", "experts"),
    [
        (MISTRAL, None),
        (
            MISTRAL | {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2},
            Experts(8, 2, 4096),
        ),
        (PARAMS | {"moe": {"num_experts": 8, "num_experts_per_tok": 2}}, Experts(8, 2, 4096)),
        (
            DEEPSEEK
            | {
                "n_routed_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
                "n_shared_experts": 1, "first_k_dense_replace": 3,
            },
            Experts(256, 8, 2048, num_shared=1, num_dense_layers=3),
        ),
    ],
)  # fmt: skip
def test_experts_by_any_of_their_names(document: dict[str, Any], experts: Experts | None) -> None:
    assert read_model_config(document).experts == experts


def test_a_large_mistral_in_its_own_format_is_a_deepseek() -> None:
    latent = {name: DEEPSEEK[name] for name in DEEPSEEK if name not in MISTRAL}
    moe = {
        "num_experts": 128, "num_experts_per_tok": 4, "expert_hidden_dim": 4096,
        "num_shared_experts": 1, "first_k_dense_replace": 3,
    }  # fmt: skip
    model = read_model_config(PARAMS | latent | {"moe": moe})
    assert model.head_size == 576
    assert model.experts == Experts(128, 4, 4096, num_shared=1, num_dense_layers=3)


def test_a_quantized_kv_cache_may_be_named_outside_of_the_language_model() -> None:
    section = {"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8}}
    wrapped = {"model_type": "mistral3", "text_config": MISTRAL, "quantization_config": section}
    assert read_model_config(wrapped).quantizes_kv_cache
    assert not read_model_config(MISTRAL).quantizes_kv_cache


@pytest.mark.parametrize(
    ("rope", "longest"),
    [
        ({}, 8192),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 16384),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, 8192),
        ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 4.0},
                              "sliding_attention": {"rope_type": "default"}}}, 32768),
        ({"rope_parameters": {"full_attention": None}}, 8192),
    ],
)  # fmt: skip
def test_rope_scaling_lengthens_what_is_not_lengthened_yet(
    rope: dict[str, Any], longest: int
) -> None:
    assert read_model_config(MISTRAL | rope).max_model_len == longest


@pytest.mark.parametrize("kind", ["longrope", "su"])
def test_longrope_goes_beyond_its_original_length_only_if_asked(kind: str) -> None:
    rope = {"rope_scaling": {"type": kind}, "original_max_position_embeddings": 4096}
    model = read_model_config(MISTRAL | rope)
    assert (model.max_model_len, model.default_model_len) == (8192, 4096)
    yarn = read_model_config(MISTRAL | rope | {"rope_scaling": {"type": "yarn"}})
    assert yarn.default_model_len == 8192


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"model_type": "mamba"}, "model_type"),
        ({"architectures": ["JambaForCausalLM"]}, "architectures"),
        ({"architectures": ["MistralModel"]}, "architectures"),
        ({"model_type": "qwen2", "architectures": ["Qwen2VLForConditionalGeneration"]},
         "architectures"),
        ({"model_type": "mistral3", "architectures": ["MistralForCausalLM"]}, "architectures"),
        ({"model_type": "llava", "text_config": {"architectures": ["JambaForCausalLM"]}},
         "text_config.architectures"),
        ({"dual_chunk_attention_config": {"chunk_size": 262144}}, "dual_chunk_attention_config"),
        ({"rope_parameters": {"chunked_attention": {"factor": 2.0}}},
         "rope_parameters.chunked_attention"),
        ({"model_type": "falcon_h1"}, "model_type"),
        ({"layer_types": [*MIXED[:3], "linear_attention"]}, "layer_types[3]"),
        ({"layer_types": [*MIXED[:3], None]}, "layer_types[3]"),
        ({"attention_chunk_size": 8192}, "attention_chunk_size"),
        ({"index_topk": 2048}, "index_topk"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"model_type": "qwen3", "use_sliding_window": True}, "use_sliding_window"),
        ({"model_type": "mixtral", "layer_types": MIXED}, "layer_types"),
        (DEEPSEEK | {"sliding_window": 128}, "sliding_window"),
        (DEEPSEEK | {"layer_types": MIXED}, "layer_types"),
    ],
)  # fmt: skip
def test_attention_that_is_not_known_is_named(changed: dict[str, Any], param: str) -> None:
    error = refusal(MISTRAL | {"sliding_window": 128} | changed)
    assert (error.code, error.param) == ("model_config_unknown", param)


def test_an_audio_encoder_in_mistrals_own_format_is_named() -> None:
    audio = {"multimodal": {"whisper_model_args": {"encoder_args": {"dim": 1280}}}}
    error = refusal(PARAMS | audio)
    assert (error.code, error.param) == ("model_config_unknown", "multimodal")


@pytest.mark.parametrize(
    ("document", "param"),
    [
        ({}, "model_type"),
        (MISTRAL | {"num_key_value_heads": 3}, "num_key_value_heads"),
        (without("model_type"), "model_type"),
        (without("num_key_value_heads"), "num_key_value_heads"),
        (without("num_hidden_layers"), "num_hidden_layers"),
        ({name: PARAMS[name] for name in PARAMS if name != "n_kv_heads"}, "n_kv_heads"),
        (MISTRAL | {"num_attention_heads": "8"}, "num_attention_heads"),
        (MISTRAL | {"num_attention_heads": True}, "num_attention_heads"),
        (MISTRAL | {"hidden_size": 7}, "hidden_size"),
        (MISTRAL | {"sliding_window": -1}, "sliding_window"),
        (MISTRAL | {"layer_types": MIXED}, "sliding_window"),
        (MISTRAL | {"layer_types": MIXED[:3]}, "layer_types"),
        ({"model_type": "mistral3"}, "text_config"),
        ({"model_type": "mistral3", "text_config": without("vocab_size")},
         "text_config.vocab_size"),
        (DEEPSEEK | {"kv_lora_rank": None}, "kv_lora_rank"),
        (PARAMS | {"sliding_window": [16, 32]}, "sliding_window"),
        (PARAMS | {"sliding_window": [None, 16, 16]}, "sliding_window"),
    ],
)  # fmt: skip
def test_a_field_that_cannot_be_used_is_named(document: dict[str, Any], param: str) -> None:
    error = refusal(document)
    assert (error.code, error.param) == ("model_config_invalid", param)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
WHOLE = [
    MISTRAL | {"sliding_window": 64, "layer_types": MIXED, "rope_scaling": {"type": "linear"},
               "torch_dtype": "bfloat16"},
    DEEPSEEK | {"quantization_config": {"quant_method": "fp8"}, "n_routed_experts": 8,
                "num_experts_per_tok": 2, "moe_intermediate_size": 64, "n_shared_experts": 1},
    MISTRAL | {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2},
    PARAMS | {"sliding_window": [None, 16], "moe": {"num_experts": 8, "num_experts_per_tok": 2}},
    {"model_type": "mistral3", "text_config": MISTRAL, "quantization_config": {
        "quant_method": "compressed-tensors", "kv_cache_scheme": None,
        "config_groups": {"group_0": {"weights": {"type": "int", "num_bits": 4}}}},
     "vision_config": {"hidden_size": 64, "patch_size": 14}, "spatial_merge_size": 2},
]  # fmt: skip


def sections(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The document and every object below it."""
    yield document
    for value in document.values():
        if isinstance(value, dict):
            yield from sections(value)


@settings(deadline=None, max_examples=500)
@given(st.data())
def test_nothing_that_json_can_say_is_more_than_an_error(data: st.DataObject) -> None:
    document = copy.deepcopy(data.draw(st.sampled_from(WHOLE)))
    section = data.draw(st.sampled_from(list(sections(document))))
    name = data.draw(st.sampled_from(sorted(section)))
    section[name] = data.draw(JUNK)
    with suppress(ConfigError):
        assert read_model_config(document).head_size > 0
