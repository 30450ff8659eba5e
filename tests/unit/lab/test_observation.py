"""A trace on a planned replica: latencies, occupancy, and windows of some layers only."""

from __future__ import annotations

import math

import numpy as np
import pytest

from serving.adapters.model_configs import load_model_config
from serving.lab.demand import Demand
from serving.lab.fleet import UNBOUNDED, Room, Slo, make_rules
from serving.lab.observation import Observation, gap_quantile, observe_trace, replica_rules
from serving.lab.replay import NUM_GAP_BINS, Rules, _gap_bin
from serving.planner.hardware import find_gpu
from serving.planner.replica_plan import ReplicaPlan, ReplicaQuestion, Shape, plan_replica
from serving.settings.simulator import TimingSettings

SLO = Slo(ttft_s=0.5, itl_s=0.05)
TIMING = TimingSettings(
    step_s=0.01,
    prefill_tokens_per_s=10_000,
    decode_s_per_sequence=0.001,
    attention_s_per_token=1e-6,
    overhead_s=0.005,
)


def demand_of(*rows: tuple[float, int, int]) -> Demand:
    at_s, prompt, output = zip(*rows, strict=True)
    return Demand(np.array(at_s), np.array(prompt), np.array(output))


def rules(prompt_attention_s: float = 0.0, **room: float) -> Rules:
    kept = {"max_batched_tokens": 1000, "max_sequences": 8, "kv_tokens": 100_000, **room}
    return make_rules(TIMING, Room(**kept), SLO, prompt_attention_s=prompt_attention_s)  # type: ignore[arg-type]


def observed(demand: Demand, number: int = 1, **room: float) -> Observation:
    return observe_trace(demand, rules(**room), SLO, num_replicas=number)


def planned(name: str, max_model_len: int, shape: Shape) -> ReplicaPlan:
    question = ReplicaQuestion(load_model_config(name), find_gpu("H100-80G"), max_model_len)
    return plan_replica(question, shape)


def test_one_request_is_as_fast_as_the_timing_says() -> None:
    seen = observed(demand_of((0.0, 2000, 101)))
    assert seen.ttft_p50_s == pytest.approx(0.005 + 2 * 0.01 + 0.2)
    assert seen.itl_p50_s == pytest.approx(0.01 + 0.001 + 2050e-6, rel=0.02)
    assert seen.itl_p99_s == seen.itl_p50_s
    assert seen.peak_running == 1
    assert seen.keeps(SLO)


@pytest.mark.parametrize(
    ("prompt", "window", "seen"),
    [
        (2500, {}, 2500**2 / 2),
        (2500, {"window_tokens": 400}, 400**2 / 2 + 2100 * 400),
        (300, {"window_tokens": 400}, 300**2 / 2),
        (
            2500,
            {"window_tokens": 400, "full_ratio": 0.25},
            0.25 * 2500**2 / 2 + 0.75 * (400**2 / 2 + 2100 * 400),
        ),
    ],
    ids=["full attention", "beyond the window", "within the window", "a mixture"],
)
def test_a_prompts_attention_grows_with_what_each_of_its_tokens_sees(
    prompt: int, window: dict[str, float], seen: float
) -> None:
    demand = demand_of((0.0, prompt, 1))
    without = observed(demand, **window)
    found = observe_trace(demand, rules(prompt_attention_s=1e-7, **window), SLO, num_replicas=1)
    assert found.ttft_p50_s - without.ttft_p50_s == pytest.approx(seen * 1e-7)


def test_a_stream_that_a_long_prompt_holds_up_has_one_long_gap() -> None:
    seen = observed(demand_of((0.0, 10, 100), (0.3, 900, 1)))
    assert seen.long_ratio == pytest.approx(1 / 99)
    assert seen.itl_p50_s < 0.0125 < SLO.itl_s < seen.itl_p99_s
    assert not seen.keeps(SLO)


def test_layers_without_a_window_attend_to_everything_and_the_others_do_not() -> None:
    demand = demand_of((0.0, 2000, 101))
    quarter = observed(demand, window_tokens=100, full_ratio=0.25)
    assert quarter.itl_p50_s == pytest.approx(0.011 + (0.25 * 2050 + 0.75 * 100) * 1e-6, rel=0.02)


def test_what_windows_forget_makes_room_for_others() -> None:
    demand = demand_of(*((0.0, 900, 100) for _ in range(4)))
    full = observed(demand, kv_tokens=2000)
    half = observed(demand, kv_tokens=2000, held_window_tokens=500, full_ratio=0.0)
    assert (full.peak_running, half.peak_running) == (2, 4)
    assert full.kv_peak_ratio == half.kv_peak_ratio == 1.0


def test_requests_that_never_begin_are_late_by_infinity() -> None:
    rows = [(0.0, 50_000, 50_000) for _ in range(3)]
    seen = observed(demand_of(*rows), kv_tokens=1, max_sequences=1)
    assert seen.ttft_p99_s == float("inf")
    assert not seen.keeps(SLO)


@pytest.mark.parametrize("slo", [Slo(math.inf, 1.0), Slo(math.inf, math.inf)])
def test_requests_that_never_begin_are_late_whatever_the_limit(slo: Slo) -> None:
    rows = [(0.0, 50_000, 50_000) for _ in range(3)]
    seen = observe_trace(demand_of(*rows), rules(kv_tokens=1, max_sequences=1), slo, num_replicas=1)
    assert seen.late_ratio == pytest.approx(2 / 3)
    assert not seen.keeps(slo)


def test_a_backlog_that_only_grows_keeps_no_slo() -> None:
    """Each second brings two seconds of work, and ten minutes later all of it is done."""
    slo = Slo(math.inf, 3.0)
    demand = demand_of(*((float(second), 18_000, 2) for second in range(300)))
    patient = rules()._replace(good_itl_s=slo.itl_s)
    one, three = (observe_trace(demand, patient, slo, num_replicas=number) for number in (1, 3))
    assert one.long_ratio == 0.0
    assert 60 < one.ttft_p99_s < math.inf
    assert not one.keeps(slo)
    assert three.keeps(slo)


def test_answers_of_one_token_have_no_gaps() -> None:
    seen = observed(demand_of((0.0, 10, 1), (1.0, 10, 1)))
    assert (seen.itl_p50_s, seen.itl_p99_s, seen.long_ratio) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("gap_s", [0.00005, 0.0001, 0.00734, 0.05, 1.7])
def test_quantiles_of_gaps_are_right_to_two_percent(gap_s: float) -> None:
    histogram = np.zeros(NUM_GAP_BINS, dtype=np.int64)
    histogram[_gap_bin(gap_s)] = 3
    assert gap_s <= gap_quantile(histogram, 0.99) <= max(gap_s * 1.0201, 1e-4)


def test_a_planned_cache_holds_as_many_longest_sequences_as_vllm_says() -> None:
    for name, longest in (
        ("mistral-7b-v0.3", 32_768),
        ("mistral-7b-v0.1", 32_768),
        ("ministral-8b-2410", 131_072),
    ):
        plan = planned(name, longest, Shape(1, 1024, 256))
        found = replica_rules(plan, SLO)
        in_window = min(longest, found.held_window_tokens)
        held = in_window + found.full_ratio * (longest - in_window)
        assert found.kv_tokens / held == pytest.approx(plan.kv.max_concurrency, rel=0.01)


def test_rules_of_full_attention_have_no_window() -> None:
    found = replica_rules(planned("mistral-nemo-12b", 16_384, Shape(1, 1024, 64)), SLO)
    assert (found.window_tokens, found.held_window_tokens) == (UNBOUNDED, UNBOUNDED)
    assert (found.max_batched_tokens, found.max_sequences) == (1024, 64)
