"""How fast is it when it has room? The first thing to run, and what all else is held against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.scenarios.finding import Finding, doubts
from loadtest.scenarios.requests import quantiles
from loadtest.scenarios.stage import Run, Stage

NAME = "baseline"


@dataclass(frozen=True, slots=True)
class Plan:
    """A constant rate, as a share of the capacity."""

    duration_s: float = 60.0
    load_ratio: float = 0.5


def run(stage: Stage, plan: Plan, folder: Path) -> Finding:
    """Load it moderately."""
    rate = plan.load_ratio * stage.capacity_rps
    outcome = Run(
        "Baseline", {"load": stage.traffic(f"constant:{rate:g}")}, plan.duration_s
    ).perform(stage)
    outcome.write(folder)
    summary = outcome.summary
    overall = summary.overall
    figures: dict[str, Any] = {
        "offered_rps": overall.offered_rps,
        "goodput_rps": overall.goodput_rps,
        "failed": overall.failed,
        "ttft_ms": quantiles(overall.ttft_ms),
        "itl_ms": quantiles(overall.itl_ms),
        "latency_ms": quantiles(overall.latency_ms),
        "output_tokens_per_s": overall.output_tokens_per_s,
    }
    return Finding(NAME, figures, summary.checks, doubts([summary]))
