"""What is measured of two fleets holds for fleets of other sizes."""

from __future__ import annotations

import numpy as np
import pytest

from serving.errors import ConfigError
from serving.lab.capacity import measure
from serving.lab.demand import Demand, bursty_day
from serving.lab.fleet import Slo, rules_of
from serving.lab.scaling import Setting, experiment
from serving.scaling.policy import Decision
from serving.settings.engine import EngineSettings
from serving.settings.model import ModelSettings
from serving.settings.simulator import SimulatorSettings
from serving.settings.weights import WeightSettings

SLO = Slo()
MODEL = ModelSettings(
    simulator=SimulatorSettings(kv_blocks=28_000),
    engine=EngineSettings(max_num_batched_tokens=1024, max_num_seqs=256),
)
RULES = rules_of(MODEL, SLO)
SPAN_S = 900.0
LENGTHS = bursty_day(np.random.default_rng(3), hours=2.0)
MEASURED = measure(LENGTHS, RULES, SLO)


def at_random(busy: float) -> Demand:
    """Requests that keep so many replicas busy."""
    rng = np.random.default_rng(11)
    capacity = MEASURED.capacity
    work_s = LENGTHS.work_s(capacity.prompt_token_s, capacity.output_token_s).mean()
    number = int(busy / work_s * SPAN_S)
    drawn = rng.integers(LENGTHS.at_s.size, size=number)
    at_s = np.sort(rng.uniform(0.0, SPAN_S, number))
    return Demand(at_s, LENGTHS.prompt_tokens[drawn], LENGTHS.output_tokens[drawn])


def missed_ratio(busy: float, num_replicas: int) -> float:
    setting = Setting(at_random(busy), RULES, SLO, 0.0, num_replicas, num_replicas)
    outcome, _ = experiment("x", setting, lambda _: Decision(num_replicas, "always"))
    return outcome.violation_s / SPAN_S


@pytest.mark.parametrize("num_replicas", [3, 8, 30])
def test_so_many_may_be_busy_and_not_many_more(num_replicas: int) -> None:
    busy = MEASURED.capacity.work_of(num_replicas)
    assert missed_ratio(0.95 * busy, num_replicas) < 0.03
    assert missed_ratio(1.15 * busy, num_replicas) > 0.2


def test_tokens_take_what_the_timing_says() -> None:
    timing, capacity = MODEL.simulator.timing, MEASURED.capacity  # type: ignore[union-attr]
    assert capacity.prompt_token_s == pytest.approx(1 / timing.prefill_tokens_per_s)
    assert capacity.output_token_s > timing.decode_s_per_sequence
    assert 0.5 < capacity.usable_ratio <= 1.0


def test_other_arrivals_give_nearly_the_same() -> None:
    other = measure(LENGTHS, RULES, SLO, seed=5)
    assert other != MEASURED
    for num_replicas in (4, 40):
        assert other.capacity.work_of(num_replicas) == pytest.approx(
            MEASURED.capacity.work_of(num_replicas), rel=0.1
        )


def test_a_real_engine_has_no_timing() -> None:
    with pytest.raises(ConfigError, match="not simulated"):
        rules_of(ModelSettings(weights=WeightSettings(source="demo")), SLO)
