"""Does it go on doing what it can when twice as much is asked?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from loadtest.report.files import write_picture
from loadtest.scenarios import requests
from loadtest.scenarios.finding import Finding, at_least, at_most, doubts
from loadtest.scenarios.pictures import Rated, goodput_over_rate
from loadtest.scenarios.stage import Run, Stage
from loadtest.verdict.summary import Check, Summary
from serving.cli.load_run import Outcome

NAME = "overload"


@dataclass(frozen=True, slots=True)
class Plan:
    """First a climb: rates from `first_ratio` of the capacity expected, each `growth` times the
    last, until one does not keep the SLO. The highest goodput of all is the capacity. Then `factor`
    times as much. The first `settle_ratio` of each run does not count: queues are still short."""

    first_ratio: float = 0.7
    growth: float = 1.15
    most_steps: int = 8
    step_s: float = 20.0
    factor: float = 2.0
    overload_s: float = 60.0
    settle_ratio: float = 0.3
    least_goodput_ratio: float = 0.9
    most_latency_s: float = 60.0


class Climbed(NamedTuple):
    """One rate, and what came of it."""

    rated: Rated
    summary: Summary

    @property
    def is_kept(self) -> bool:
        """Whether the SLO was kept, as far as the figures can be trusted."""
        return all(check.met for check in self.summary.checks)


def run(stage: Stage, plan: Plan, folder: Path) -> Finding:
    """Find the capacity, then ask for more."""
    climb = _climb(stage, plan)
    peak_rps = max(step.rated.goodput_rps for step in climb)
    rate = plan.factor * (peak_rps or stage.capacity_rps)
    outcome = _at(stage, rate, plan.overload_s, seed=plan.most_steps)
    outcome.write(folder)
    records = outcome.result.records
    beyond = _rated(outcome, stage, plan, rate)
    write_picture(folder, goodput_over_rate([*(step.rated for step in climb), beyond]))
    figures: dict[str, Any] = {
        "highest_rate_within_slo_rps": max(
            (step.rated.offered_rps for step in climb if step.is_kept), default=None
        ),
        "peak_goodput_rps": peak_rps,
        "offered_rps": rate,
        "goodput_rps": beyond.goodput_rps,
        "goodput_ratio": beyond.goodput_rps / peak_rps if peak_rps else None,
        "admitted_within_slo_ratio": requests.attained_ratio(records, stage.slo),
        "admitted_ttft_ms": requests.quantiles(outcome.summary.overall.ttft_ms),
        "refused": requests.num_refused(records),
        "refused_without_retry_after": requests.num_without_retry_after(records),
        "broken": requests.num_broken(records),
        "longest_s": requests.longest_s(records),
    }
    return Finding(
        NAME,
        figures,
        _checks(figures, plan, stage.slo.attainment_ratio),
        doubts([*(step.summary for step in climb), outcome.summary]),
    )


def _checks(figures: Mapping[str, Any], plan: Plan, attainment: float) -> tuple[Check, ...]:
    return (
        at_least("goodput_ratio", plan.least_goodput_ratio, figures["goodput_ratio"]),
        at_least("admitted_within_slo_ratio", attainment, figures["admitted_within_slo_ratio"]),
        at_most("refused_without_retry_after", 0, figures["refused_without_retry_after"]),
        at_most("broken", 0, figures["broken"]),
        at_most("longest_s", plan.most_latency_s, figures["longest_s"]),
    )


def _climb(stage: Stage, plan: Plan) -> list[Climbed]:
    """What came of each rate, up to the first that does not keep the SLO."""
    found: list[Climbed] = []
    for step in range(plan.most_steps):
        rate = stage.capacity_rps * plan.first_ratio * plan.growth**step
        outcome = _at(stage, rate, plan.step_s, seed=step)
        found.append(Climbed(_rated(outcome, stage, plan, rate), outcome.summary))
        if not found[-1].is_kept:
            break
    return found


def _at(stage: Stage, rate: float, duration_s: float, *, seed: int) -> Outcome:
    traffic = {"load": stage.traffic(f"constant:{rate:g}")}
    return Run(f"Overload: {rate:.3g} requests/s", traffic, duration_s, seed).perform(stage)


def _rated(outcome: Outcome, stage: Stage, plan: Plan, rate: float) -> Rated:
    end_s = outcome.result.about.duration_s
    return Rated(rate, requests.goodput_rps(
        outcome.result.records, stage.slo, begin_s=plan.settle_ratio * end_s, end_s=end_s
    ))  # fmt: skip
