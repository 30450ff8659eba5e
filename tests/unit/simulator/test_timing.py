"""A step takes as long as what it computes."""

from __future__ import annotations

import math
from random import Random
from statistics import mean, stdev

import pytest

from serving.settings.simulator import TimingSettings
from serving.simulator.step_plan import StepPlan
from serving.simulator.timing import StepTimer

TIMING = TimingSettings(
    step_s=0.01,
    prefill_tokens_per_s=1000,
    decode_s_per_sequence=0.001,
    attention_s_per_token=1e-6,
)


def test_an_empty_step_still_takes_time() -> None:
    assert StepTimer(TIMING, Random(0)).seconds(StepPlan()) == pytest.approx(0.01)


def test_every_part_adds_up() -> None:
    plan = StepPlan(num_prefill_tokens=500, num_decodes=4, num_decode_context_tokens=2000)
    assert StepTimer(TIMING, Random(0)).seconds(plan) == pytest.approx(0.01 + 0.5 + 0.004 + 0.002)


def test_jitter_is_log_normal_and_seeded() -> None:
    timing = TIMING.model_copy(update={"jitter": 0.3})
    first, second = StepTimer(timing, Random(7)), StepTimer(timing, Random(7))
    times = [first.seconds(StepPlan()) for _ in range(4000)]
    logs = [math.log(seconds / 0.01) for seconds in times]
    assert times == [second.seconds(StepPlan()) for _ in range(4000)]
    assert mean(logs) == pytest.approx(0, abs=0.02)
    assert stdev(logs) == pytest.approx(0.3, rel=0.05)
