"""Does it go on doing what it can when twice as much is asked?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.report.files import write_picture
from loadtest.scenarios import requests
from loadtest.scenarios.finding import Finding, at_least, at_most, doubts
from loadtest.scenarios.pictures import Rated, goodput_over_rate
from loadtest.scenarios.stage import Run, Stage
from loadtest.verdict.summary import Summary

NAME = "overload"


@dataclass(frozen=True, slots=True)
class Plan:
    """First a climb: rates from `first_ratio` of the capacity expected, each `growth` times the
    last, until one does not keep the SLO. The highest that did is the capacity. Then `factor`
    times as much, of which the first `settle_s` do not count: queues are still empty then."""

    first_ratio: float = 0.7
    growth: float = 1.15
    most_steps: int = 8
    step_s: float = 15.0
    factor: float = 2.0
    overload_s: float = 60.0
    settle_s: float = 15.0
    least_goodput_ratio: float = 0.9
    most_latency_s: float = 60.0


def run(stage: Stage, plan: Plan, folder: Path) -> Finding:
    """Find the capacity, then ask for more."""
    climb = _climb(stage, plan)
    capacity_rps, peak_rps = capacity(climb)
    rate = plan.factor * (capacity_rps or stage.capacity_rps)
    traffic = {"load": stage.traffic(f"constant:{rate:g}")}
    outcome = Run(f"Overload at {plan.factor:g} x capacity", traffic, plan.overload_s,
                  seed=plan.most_steps).perform(stage)  # fmt: skip
    outcome.write(folder)
    records = outcome.result.records
    goodput_rps = requests.goodput_rps(
        records, stage.slo, begin_s=plan.settle_s, end_s=plan.overload_s
    )
    rated = [Rated(summary.overall.offered_rps, summary.overall.goodput_rps) for summary in climb]
    write_picture(folder, goodput_over_rate([*rated, Rated(rate, goodput_rps)]))
    figures = {
        "capacity_rps": capacity_rps,
        "peak_goodput_rps": peak_rps,
        "offered_rps": rate,
        "goodput_rps": goodput_rps,
        "goodput_ratio": goodput_rps / peak_rps if peak_rps else None,
        "admitted_within_slo_ratio": requests.attained_ratio(records, stage.slo),
        "admitted_ttft_ms": requests.quantiles(outcome.summary.overall.ttft_ms),
        "refused": requests.num_refused(records),
        "refused_without_retry_after": requests.num_without_retry_after(records),
        "broken": requests.num_broken(records),
        "longest_s": requests.longest_s(records),
    }
    least, attainment = plan.least_goodput_ratio, stage.slo.attainment_ratio
    checks = (
        at_least("capacity_rps", 0.1 * stage.capacity_rps, capacity_rps),
        at_least("goodput_ratio", least, figures["goodput_ratio"]),
        at_least("admitted_within_slo_ratio", attainment, figures["admitted_within_slo_ratio"]),
        at_most("refused_without_retry_after", 0, figures["refused_without_retry_after"]),
        at_most("broken", 0, figures["broken"]),
        at_most("longest_s", plan.most_latency_s, figures["longest_s"]),
    )
    return Finding(NAME, figures, checks, doubts([*climb, outcome.summary]))


def capacity(climb: Sequence[Summary]) -> tuple[float | None, float]:
    """The highest rate that kept the SLO, `None` if none did, and the highest goodput of all."""
    kept = [s.overall.offered_rps for s in climb if s.verdict in ("pass", "invalid")]
    return max(kept, default=None), max(s.overall.goodput_rps for s in climb)


def _climb(stage: Stage, plan: Plan) -> list[Summary]:
    """What came of each rate, up to the first that does not keep the SLO."""
    found: list[Summary] = []
    for step in range(plan.most_steps):
        rate = stage.capacity_rps * plan.first_ratio * plan.growth**step
        traffic = {"load": stage.traffic(f"constant:{rate:g}")}
        outcome = Run(f"{rate:g} requests/s", traffic, plan.step_s, seed=step).perform(stage)
        found.append(outcome.summary)
        if not all(check.met for check in outcome.summary.checks):
            break
    return found
