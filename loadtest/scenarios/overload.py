"""Does it go on doing what it can when twice as much is asked?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from loadtest.report.files import write_capacity, write_picture
from loadtest.scenarios import requests
from loadtest.scenarios.finding import Finding, doubts
from loadtest.scenarios.pictures import Rated, goodput_over_rate
from loadtest.scenarios.stage import Run, Stage
from loadtest.verdict.capacity import Capacity, CapacitySearch
from loadtest.verdict.checks import at_least, at_most, early_ends
from loadtest.verdict.summary import Check, Summary
from serving.cli.load_run import Outcome

NAME = "overload"


@dataclass(frozen=True, slots=True)
class Plan:
    """First the search for the capacity, from `first_ratio` of the one expected to `most_ratio` of
    it. The highest goodput of all its probes is the peak, and then `factor` times as much is asked.
    The first `settle_ratio` of each run does not count in that: queues are still short."""

    first_ratio: float = 0.5
    most_ratio: float = 8.0
    precision_ratio: float = 0.15
    probe_s: float = 20.0
    factor: float = 2.0
    overload_s: float = 60.0
    settle_ratio: float = 0.3
    least_goodput_ratio: float = 0.9
    most_latency_s: float = 60.0


class Probed(NamedTuple):
    """One rate, and what came of it."""

    rated: Rated
    summary: Summary


def run(stage: Stage, plan: Plan, folder: Path) -> Finding:
    """Find the capacity, then ask for more."""
    capacity, probed = _search(stage, plan)
    peak_rps = max(probe.rated.goodput_rps for probe in probed)
    rate = plan.factor * (peak_rps or stage.capacity_rps)
    outcome = _at(stage, rate, plan.overload_s)
    outcome.write(folder)
    write_capacity(folder, capacity, title="Capacity before the overload")
    records = outcome.result.records
    beyond = _rated(outcome, stage, plan, rate)
    write_picture(folder, goodput_over_rate([*(probe.rated for probe in probed), beyond]))
    figures: dict[str, Any] = {
        "capacity_rps": capacity.rate_rps,
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
        doubts([*(probe.summary for probe in probed), outcome.summary]),
    )


def _checks(figures: Mapping[str, Any], plan: Plan, attainment: float) -> tuple[Check, ...]:
    return (
        at_least("goodput_ratio", plan.least_goodput_ratio, figures["goodput_ratio"]),
        at_least("admitted_within_slo_ratio", attainment, figures["admitted_within_slo_ratio"]),
        at_most("refused_without_retry_after", 0, figures["refused_without_retry_after"]),
        at_most("broken", 0, figures["broken"]),
        at_most("longest_s", plan.most_latency_s, figures["longest_s"]),
    )


def _search(stage: Stage, plan: Plan) -> tuple[Capacity, list[Probed]]:
    """The capacity, and what came of each rate that was tried."""
    first, most = (ratio * stage.capacity_rps for ratio in (plan.first_ratio, plan.most_ratio))
    search = CapacitySearch(first, most, precision_ratio=plan.precision_ratio, repeats=1)
    found: list[Probed] = []
    while (rate := search.next_rate()) is not None:
        outcome = _at(stage, rate, plan.probe_s)
        found.append(Probed(_rated(outcome, stage, plan, rate), outcome.summary))
        overall = outcome.summary.overall
        search.tell(
            rate,
            outcome.summary.verdict,
            offered_rps=overall.offered_rps,
            goodput_rps=overall.goodput_rps,
            notes=early_ends(overall),
        )
    return search.result(), found


def _at(stage: Stage, rate: float, duration_s: float) -> Outcome:
    traffic = {"load": stage.traffic(f"constant:{rate:g}")}
    return Run(f"Overload: {rate:.3g} requests/s", traffic, duration_s).perform(stage)


def _rated(outcome: Outcome, stage: Stage, plan: Plan, rate: float) -> Rated:
    end_s = outcome.result.about.duration_s
    return Rated(rate, requests.goodput_rps(
        outcome.result.records, stage.slo, begin_s=plan.settle_ratio * end_s, end_s=end_s
    ))  # fmt: skip
