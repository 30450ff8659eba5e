"""What an experiment counts, and what its policies are shown."""

from __future__ import annotations

import numpy as np
import pytest

from serving.lab.demand import Demand
from serving.lab.fleet import Slo, VirtualFleet, rules_of
from serving.lab.scaling import Seen, Setting, experiment, observe
from serving.scaling.policy import Decision
from serving.settings.engine import EngineSettings
from serving.settings.model import ModelSettings
from serving.settings.simulator import SimulatorSettings

SIMULATOR = SimulatorSettings(kv_blocks=4000)
MODEL = ModelSettings(
    simulator=SIMULATOR, engine=EngineSettings(max_num_batched_tokens=1024, max_num_seqs=64)
)
SLO = Slo()
RULES = rules_of(MODEL, SLO)


def steady(per_s: float, span_s: float, *, prompt: int = 1000, output: int = 20) -> Demand:
    at_s = np.arange(0.0, span_s, 1 / per_s)
    return Demand(at_s, np.full(at_s.size, prompt), np.full(at_s.size, output))


def setting(
    demand: Demand, *, first: int = 1, most: int = 8, cold_start_s: float = 60.0
) -> Setting:
    return Setting(demand, RULES, SLO, cold_start_s, first_replicas=first, max_replicas=most)


def always(number: int) -> Decision:
    return Decision(number, "always")


def test_enough_replicas_keep_the_slo() -> None:
    outcome, _ = experiment("x", setting(steady(10, 600), first=2), lambda _: always(2))
    assert (outcome.violation_s, outcome.goodput_ratio) == (0.0, 1.0)
    assert outcome.replica_s == pytest.approx(1200.0, abs=15.0)
    assert outcome.direction_changes_per_10min == 0.0


def test_too_few_miss_it() -> None:
    outcome, _ = experiment("x", setting(steady(40, 300)), lambda _: always(1))
    assert outcome.violation_s == pytest.approx(300.0, abs=30.0)
    assert outcome.goodput_ratio < 0.2


def test_what_never_gets_an_answer_is_missed() -> None:
    """Replicas that are not ready before the demand ends."""
    demand = steady(10, 100)
    outcome, _ = experiment("x", setting(demand, first=0, cold_start_s=1e6), lambda _: always(1))
    assert (outcome.violation_s, outcome.goodput_ratio) == (100.0, 0.0)


def test_decisions_are_kept_when_they_change_something() -> None:
    def scaler(seen: Seen) -> Decision:
        return Decision(3 if seen.signals.at_s < 100 else 1, "by the clock")

    _, course = experiment("x", setting(steady(5, 300)), scaler)
    assert [(at_s, decision.desired) for at_s, decision in course.decisions] == [
        (5.0, 3),
        (100.0, 1),
    ]
    assert max(course.held) == 3


def test_policies_see_rates_and_queues() -> None:
    fleet = VirtualFleet(steady(10, 600), RULES, cold_start_s=0.0, num_ready=2, max_replicas=4)
    fleet.advance(300.0)
    seen = observe(fleet, target=2)
    assert seen.signals.problem() is None
    assert seen.signals.requests_per_s == pytest.approx(10.0, rel=0.02)
    assert seen.signals.prompt_tokens_per_s == pytest.approx(10_000.0, rel=0.02)
    assert seen.signals.output_tokens_per_s == pytest.approx(200.0, rel=0.05)
    assert seen.signals.late_ttft_ratio == 0.0
    assert seen.replicas.ready == 2
    assert 1 <= seen.in_flight <= 10


def test_policies_see_what_waits_and_what_is_late() -> None:
    fleet = VirtualFleet(steady(40, 600), RULES, cold_start_s=0.0, num_ready=1, max_replicas=4)
    fleet.advance(120.0)
    signals = observe(fleet, target=1).signals
    assert signals.problem() is None
    assert signals.waiting_tokens > 1e6
    assert signals.late_ttft_ratio > 0.5
    assert signals.kv_used_ratio > 0.1
