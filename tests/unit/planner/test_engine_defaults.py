"""What the planner fills into a model's settings, and when it leaves them alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from serving.planner.engine_defaults import chosen_chunk, with_chosen_chunk
from serving.planner.model_config import ModelConfig
from serving.settings.model import ModelSettings

DEMO = ModelConfig(
    windows=(512,) * 30, num_heads=9, num_kv_heads=3, head_size=64, hidden_size=576,
    intermediate_size=1536, vocab_size=49152, max_model_len=8192, tie_embeddings=True,
)  # fmt: skip
WIDE = replace(DEMO, windows=(4096,) * 32, num_heads=32, num_kv_heads=8, max_model_len=32768)
CPU = {"device": "cpu"}


def settings(*, resources: dict[str, Any] = CPU, **engine: Any) -> ModelSettings:
    document = {"weights": {"source": "demo"}, "resources": resources, "engine": engine}
    return ModelSettings.model_validate(document)


def chunk(model: ModelSettings, config: ModelConfig) -> int | None:
    return with_chosen_chunk(model, config).engine.max_num_batched_tokens


def test_the_demo_model_holds_three_times_as_many_and_says_so() -> None:
    model = settings(max_model_len=4096, kv_cache_gib=1, max_num_seqs=64)
    assert chunk(model, DEMO) == 256
    assert chosen_chunk(model, DEMO) == (
        "prompts in chunks of 256 tokens: a sequence holds its window of 512 tokens and up to 256 "
        "in flight, not 2,048; 52 sequences of 4,096 tokens fit, 17 with vLLM's default of 2,048"
    )


def test_nothing_else_of_the_settings_changes() -> None:
    model = settings(max_num_seqs=64, dtype="bfloat16")
    changed = with_chosen_chunk(model, DEMO)
    engine = changed.engine.model_copy(update={"max_num_batched_tokens": None})
    assert changed.model_copy(update={"engine": engine}) == model


@pytest.mark.parametrize("engine", [{"kv_cache_gib": None}, {"kv_cache_gib": 0.001}])
def test_without_a_size_of_the_cache_it_is_a_ratio(engine: dict[str, Any]) -> None:
    told = chosen_chunk(settings(max_model_len=4096, max_num_seqs=64, **engine), DEMO)
    assert told is not None
    assert told.endswith(
        "; 3.0 times as many sequences of 4,096 tokens fit"
        if engine["kv_cache_gib"] is None
        else "; 0 sequences of 4,096 tokens fit, 0 with vLLM's default of 2,048"
    )


@pytest.mark.parametrize(
    ("engine", "tokens"),
    [({}, 1024), ({"tensor_parallel_size": 4}, 1024), ({"pipeline_parallel_size": 2}, 512)],
)
def test_more_steps_in_flight_are_each_smaller(engine: dict[str, Any], tokens: int) -> None:
    model = settings(resources={"device": "gpu"}, kv_cache_gib=40, **engine)
    assert chunk(model, WIDE) == tokens
    assert chosen_chunk(model, WIDE)


def test_the_default_is_that_of_the_gpu_and_an_assumption_is_told() -> None:
    told = {}
    for name in ("L4", "H100", None):
        resources = {"device": "gpu", "accelerator_type": name}
        told[name] = chosen_chunk(settings(resources=resources, kv_cache_gib=40), WIDE) or ""
    assert told["L4"].endswith("with vLLM's default of 2,048")
    assert told["H100"].endswith("with vLLM's default of 8,192")
    assert "taken to be 8,192" in told[None]
    assert "resources.accelerator_type" in told[None]


def test_a_large_gpu_gets_a_chunk_where_a_small_one_needs_none() -> None:
    wider = replace(WIDE, windows=(8192,) * 32)
    chunks = [
        chunk(settings(resources={"device": "gpu", "accelerator_type": name}), wider)
        for name in ("L4", "H100", "B200")
    ]
    assert chunks == [None, 2048, 2048]


@pytest.mark.parametrize(
    "engine",
    [
        {"max_num_batched_tokens": 2048},
        {"extra_args": {"max_num_batched_tokens": 2048}},
        {"extra_args": {"max-num-batched-tokens": 2048}},
        {"extra_args": {"disable_sliding_window": True}},
        {"extra_args": {"kv_cache_dtype": "nvfp4"}},
        {"block_size": 8, "tensor_parallel_size": 1, "max_num_seqs": 4096},
    ],
)
def test_what_is_said_or_not_understood_stays(engine: dict[str, Any]) -> None:
    model = settings(**engine)
    assert with_chosen_chunk(model, DEMO) == model
    assert chosen_chunk(model, DEMO) is None


def test_full_attention_keeps_vllms_default() -> None:
    full = replace(DEMO, windows=(None,) * 30)
    assert with_chosen_chunk(settings(), full) == settings()
    assert chosen_chunk(settings(), full) is None
