"""One autoscaler for all models: what it decides, keeps and tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from serving.adapters.autoscaler import TICK_S, Autoscaler, Fleet, ModelPlan, Report
from serving.scaling.guard import BLIND_HOLD_S, Trouble
from serving.scaling.policy import Bounds
from serving.scaling.signals import Capacity, Replicas, Signals

PLAN = ModelPlan(
    Capacity(prompt_token_s=0.001, output_token_s=0.0, usable_ratio=0.8),
    Bounds(1, 8),
    cold_start_s=60.0,
    quantile=0.85,
    gpus=1,
    allowed_bad_ratio=0.01,
)


def busy(replicas: float, **more: float) -> Signals:
    """Prompts that keep so many replicas busy."""
    return Signals(0.0, 1.0, replicas * 1000, 0.0, **more)


class Bench:
    """Figures and an observer that are told what to say, a clock, and replicas that obey."""

    def __init__(self, *, budget: int | None = None, plan: ModelPlan = PLAN) -> None:
        self.now_s = 1000.0
        self.signals: dict[str, Signals] = {}
        self.told: Signals | None = None
        self.reports: dict[str, Report] = {}
        self.troubles: Counter[tuple[str, Trouble]] = Counter()
        self.replicas: dict[str, Replicas] = {}
        self.autoscaler = Autoscaler(self, self, budget=budget, now=lambda: self.now_s)
        self.autoscaler.plan("a", plan)
        self.autoscaler.plan("b", plan)

    def latest(self, *, now_s: float) -> Mapping[str, Signals]:
        return {name: replace(signals, at_s=now_s) for name, signals in self.signals.items()}

    def decided(self, model: str, report: Report) -> None:
        self.reports[model] = report

    def forgotten(self, model: str) -> None:
        self.reports.pop(model, None)

    def troubled(self, model: str, trouble: Trouble, times: int) -> None:
        self.troubles[model, trouble] += times

    def ask(self, name: str = "a") -> int:
        replicas = self.replicas.get(name, Replicas(1, 1))
        desired = self.autoscaler.decide(name, Fleet(replicas, lambda: self.told))
        self.replicas[name] = Replicas(desired, desired)
        return desired

    def run(self, *names: str, seconds: float) -> None:
        """Ask about the models as often as Serve does."""
        for _ in range(int(seconds / 0.5)):
            self.now_s += 0.5
            for name in names:
                self.ask(name)


def test_a_model_gets_what_its_signals_call_for() -> None:
    bench = Bench()
    bench.signals["a"] = busy(2.0)
    assert bench.ask() == 4  # 2 busy ones call for 2.5, and more are expected
    assert bench.reports["a"].to_status() == {
        "desired": 4,
        "current": 1,
        "reason": "2.0 replicas busy, 2.6 expected",
        "signals_age_s": 0.0,
    }


def test_between_ticks_the_decision_stands() -> None:
    bench = Bench()
    bench.signals["a"] = busy(2.0)
    bench.ask()
    bench.signals["a"] = busy(6.0)
    bench.now_s += TICK_S / 2
    assert bench.ask() == 4
    bench.now_s += TICK_S / 2
    assert bench.ask() > 4


def test_without_figures_the_target_holds_then_reports_count() -> None:
    bench = Bench()
    bench.replicas["a"], bench.told = Replicas(3, 3), busy(4.0)
    assert bench.ask() == 3
    assert bench.reports["a"].signals_age_s is None
    assert bench.troubles == {("a", Trouble.MISSING): 1}
    bench.run("a", seconds=BLIND_HOLD_S + TICK_S)
    assert bench.ask() == 7
    assert "own reports" in bench.reports["a"].reason


def test_a_budget_is_shared_and_what_it_withholds_is_told() -> None:
    bench = Bench(budget=6)
    bench.signals = {"a": busy(4.0), "b": busy(4.0, late_ttft_ratio=0.05)}
    bench.run("a", "b", seconds=400.0)
    assert bench.replicas["a"].target + bench.replicas["b"].target == 6
    assert bench.replicas["b"].target > bench.replicas["a"].target
    assert "; the GPU budget withholds" in bench.reports["a"].reason


def test_what_runs_is_not_taken_away_by_a_moment() -> None:
    """Neither by latencies that go up and down, nor by a query that has failed."""
    bench = Bench(budget=6)
    calm = {"a": busy(4.0), "b": busy(4.0)}
    bench.signals = calm
    bench.run("a", "b", seconds=200.0)
    before = dict(bench.replicas)
    for moment in ({}, {**calm, "b": busy(4.0, late_ttft_ratio=0.5)}, {"a": calm["a"]}):
        bench.signals = moment
        bench.run("a", "b", seconds=10.0)
        bench.signals = calm
        bench.run("a", "b", seconds=300.0)
        assert bench.replicas == before


def test_a_model_that_is_woken_gets_one_from_a_budget_that_is_used_up() -> None:
    bench = Bench(budget=4, plan=replace(PLAN, bounds=Bounds(0, 8, idle_s=60.0)))
    bench.signals = {"a": busy(8.0), "b": Signals(0.0, 0.0, 0.0, 0.0)}
    bench.replicas["b"] = Replicas(0, 0)
    bench.run("a", "b", seconds=100.0)
    assert (bench.replicas["a"].target, bench.replicas["b"].target) == (4, 0)
    bench.autoscaler.wake("b")
    assert bench.ask("b") == 1
    bench.run("a", "b", seconds=10.0)
    assert (bench.replicas["a"].target, bench.replicas["b"].target) == (3, 1)


def test_promises_to_classes_outlast_prometheus() -> None:
    bench = Bench(plan=replace(PLAN, bounds=Bounds(1, 8, floors={"gold": 3})))
    bench.signals["a"] = replace(busy(0.1), active_classes=frozenset({"gold"}))
    bench.told = busy(0.1)
    assert bench.ask() == 3
    bench.signals.clear()
    bench.run("a", seconds=600.0)
    assert bench.replicas["a"].target == 3


def test_a_model_that_is_not_deployed_any_more_is_forgotten() -> None:
    bench = Bench()
    bench.signals = {"a": busy(1.0), "b": busy(1.0)}
    bench.run("a", "b", seconds=10.0)
    bench.run("a", seconds=120.0)
    assert bench.reports.keys() == {"a"}


def test_a_model_that_is_gone_claims_nothing() -> None:
    bench = Bench(budget=6)
    bench.signals = {"a": busy(4.0), "b": busy(4.0)}
    bench.run("a", "b", seconds=2 * TICK_S)
    assert bench.replicas["a"].target < 6
    bench.run("a", seconds=120.0)
    assert bench.replicas["a"].target == 6
    assert bench.autoscaler.reports().keys() == {"a"}


def test_a_request_wakes_a_model_at_once_even_without_figures() -> None:
    bench = Bench(plan=replace(PLAN, bounds=Bounds(0, 8, idle_s=60.0)))
    bench.replicas["a"] = Replicas(0, 0)
    assert bench.ask() == 0
    bench.now_s += 0.5
    bench.autoscaler.wake("a")
    assert bench.ask() == 1
    bench.autoscaler.wake("nobody")  # a gateway may know a model that is gone


def test_cold_starts_are_learned() -> None:
    bench = Bench()
    bench.signals["a"] = busy(0.1)
    bench.ask()
    for ready in (1, 3):
        fleet = Fleet(Replicas(3, ready), lambda: None)
        bench.now_s += 40.0
        bench.autoscaler.decide("a", fleet)
    assert bench.reports["a"].cold_start_s == 40.0


def test_the_same_plan_keeps_what_was_learned_and_another_begins_anew() -> None:
    bench = Bench()
    bench.signals["a"] = busy(5.0)
    bench.ask()
    bench.autoscaler.plan("a", PLAN)
    assert bench.ask() == 8
    bench.autoscaler.plan("a", replace(PLAN, bounds=Bounds(1, 2)))
    assert bench.ask() == 2


def test_a_failure_is_counted() -> None:
    bench = Bench()
    bench.autoscaler.failed("a")
    assert bench.troubles == {("a", Trouble.POLICY_FAILED): 1}


def test_a_controller_that_stood_still_goes_on() -> None:
    bench = Bench()
    bench.signals = {"a": busy(1.0), "b": busy(1.0)}
    bench.run("a", "b", seconds=10.0)
    before = dict(bench.replicas)
    bench.now_s += 600.0
    bench.run("a", "b", seconds=10.0)
    assert bench.replicas == before
    assert bench.reports.keys() == {"a", "b"}
