"""What fits a GPU beside the weights, and measured timings in place of the roofline's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from serving.adapters.model_configs import load_model_config
from serving.errors import ConfigError
from serving.planner.hardware import find_gpu
from serving.planner.measured_timing import MeasuredTiming, measured_model, read_measured_timing
from serving.planner.quantization import FP8
from serving.planner.replica_plan import (
    GPU_MEMORY_UTILIZATION,
    ReplicaQuestion,
    Shape,
    plan_replica,
)
from serving.settings.engine import EngineSettings
from serving.settings.simulator import TimingSettings

GIB = 1 << 30


def ask(
    model: str, gpu: str, max_model_len: int, measured: MeasuredTiming | None = None
) -> ReplicaQuestion:
    config = load_model_config(model)
    return ReplicaQuestion(config, find_gpu(gpu), max_model_len, measured=measured)


SEVEN_B = ask("mistral-7b-v0.1", "H100-80G", 32_768)
MEASURED = MeasuredTiming(
    model=measured_model("seven-b", SEVEN_B.roofline(1)),
    gpu="H100-80G",
    max_num_batched_tokens=2048,
    max_num_seqs=256,
    timing=TimingSettings(
        step_s=0.012, prefill_tokens_per_s=20_000, decode_s_per_sequence=1e-4, overhead_s=0.007
    ),
)


def test_a_7b_model_leaves_most_of_an_h100_to_the_kv_cache() -> None:
    """vLLM is given 0.9 of 79.6 GiB; 13.5 of that are weights."""
    plan = plan_replica(ask("mistral-7b-v0.3", "H100-80G", 32_768), Shape(1, 2048, 256))
    assert plan.weight_bytes / GIB == pytest.approx(13.5, abs=0.1)
    assert plan.kv_bytes / GIB == pytest.approx(56.5, abs=1.5)
    assert plan.kv.num_blocks == plan.kv_bytes // (2 << 20)


def test_a_plan_gives_vllm_the_memory_that_settings_give_it() -> None:
    assert EngineSettings().gpu_memory_utilization == GPU_MEMORY_UTILIZATION
    plan = plan_replica(ask("mistral-7b-v0.3", "H100-80G", 32_768), Shape(1, 2048, 256))
    taken = plan.weight_bytes + plan.kv_bytes
    total = find_gpu("H100-80G").memory_bytes
    assert taken < GPU_MEMORY_UTILIZATION * total < taken + 3 * GIB


def test_larger_chunks_leave_less_and_hold_more_of_a_window() -> None:
    question = ask("mistral-7b-v0.1", "H100-80G", 32_768)
    small, large = (plan_replica(question, Shape(1, chunk, 256)) for chunk in (512, 8192))
    assert small.kv_bytes > large.kv_bytes
    assert small.kv.max_concurrency > 3 * large.kv.max_concurrency


def test_weights_that_do_not_fit_are_named_with_their_size() -> None:
    with pytest.raises(ConfigError, match=r"weights of 44\.7 GiB") as caught:
        plan_replica(ask("mistral-small-3.1-24b", "L40S", 8192), Shape(1, 2048, 256))
    assert caught.value.code == "weights_do_not_fit"
    assert plan_replica(ask("mistral-small-3.1-24b", "L40S", 8192), Shape(2, 2048, 256))


def test_a_sequence_that_does_not_fit_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        plan_replica(ask("mistral-nemo-12b", "L40S", 131_072), Shape(1, 2048, 256))
    assert caught.value.code == "kv_cache_too_small"


def test_heads_that_cannot_be_shared_out_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be shared out") as caught:
        plan_replica(ask("demo", "L4", 4096), Shape(2, 2048, 64))
    assert caught.value.code == "heads_not_divisible"


def test_a_measured_engine_is_planned_as_it_was_measured() -> None:
    question = ask("mistral-7b-v0.1", "H100-80G", 32_768, MEASURED)
    timing = plan_replica(question, Shape(1, 2048, 256)).timing
    # Prompts of the lengths that calibration sends, up to three chunks.
    assert timing.with_prompts_of(2048) == MEASURED.timing.model_copy(
        update={
            "prefill_tokens_per_s": pytest.approx(20_000),
            "decode_s_per_sequence": pytest.approx(1e-4),
            "step_s": pytest.approx(0.012),
            "attention_s_per_token": pytest.approx(MEASURED.timing.attention_s_per_token),
        }
    )


def test_other_shapes_change_by_the_rooflines_ratios() -> None:
    measured = ask("mistral-7b-v0.1", "H100-80G", 32_768, MEASURED)
    assumed = ask("mistral-7b-v0.1", "H100-80G", 32_768)
    for shape in (Shape(2, 2048, 256), Shape(1, 512, 256)):
        found, expected = plan_replica(measured, shape).timing, plan_replica(assumed, shape).timing
        base = plan_replica(assumed, Shape(1, 2048, 256)).timing
        step_ratio = expected.linear.step_s / base.linear.step_s
        assert found.linear.step_s / 0.012 == pytest.approx(step_ratio)
        assert found.linear.overhead_s == 0.007
        slower = base.with_prompts_of(2048).prefill_tokens_per_s / 20_000
        assert found.prompt_attention_s == pytest.approx(expected.prompt_attention_s * slower)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"timing": {"step_s": -1}}, "timing.step_s"),
        ({"gpu": None}, "gpu"),
        ({"x": 1}, "x"),
        ({"model": {}}, r"model\.name"),
    ],
)
def test_a_file_that_is_no_calibration_is_refused_by_field(
    change: dict[str, object], field: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: "):
        read_measured_timing(MEASURED.model_dump(mode="json") | change)


def test_a_calibration_survives_being_written() -> None:
    assert read_measured_timing(MEASURED.model_dump(mode="json")) == MEASURED


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"model": load_model_config("mistral-nemo-12b")},
            "seven-b: parameters 7241732096",
        ),
        ({"model": replace(SEVEN_B.model, weights=FP8)}, "weight_bits 16, where the model has 8"),
        ({"kv_dtype": "fp8"}, "kv_bytes_per_token 131072, where the model has 65536"),
        ({"gpu": find_gpu("H200")}, "on H100-80G, not on H200"),
    ],
    ids=["model", "weights", "kv cache", "gpu"],
)
def test_a_timing_of_another_engine_is_refused(change: dict[str, Any], says: str) -> None:
    MEASURED.check(SEVEN_B.roofline(1))
    with pytest.raises(ConfigError, match=says) as caught:
        MEASURED.check(replace(SEVEN_B, **change).roofline(1))
    assert (caught.value.code, caught.value.param) == ("calibration_invalid", "--calibration")
