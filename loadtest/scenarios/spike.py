"""What does a sudden crowd cost, and for how long?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.scenarios import requests
from loadtest.scenarios.finding import Finding, doubts
from loadtest.scenarios.stage import Run, Stage
from loadtest.verdict.checks import at_most

NAME = "spike"


@dataclass(frozen=True, slots=True)
class Plan:
    """A base rate as a share of the capacity, `factor` times as much for some seconds, and back."""

    load_ratio: float = 0.4
    factor: float = 5.0
    before_s: float = 15.0
    spike_s: float = 10.0
    after_s: float = 60.0
    most_recovery_s: float = 10.0
    window_s: float = 5.0

    @property
    def ends_s(self) -> float:
        """When the crowd stops coming."""
        return self.before_s + self.spike_s

    def arrivals(self, capacity_rps: float) -> str:
        """As a workload names them.

        >>> Plan().arrivals(20.0)
        'step:8x15,40x10,8x60'
        """
        base, high = self.load_ratio * capacity_rps, self.factor * self.load_ratio * capacity_rps
        steps = ((base, self.before_s), (high, self.spike_s), (base, self.after_s))
        return "step:" + ",".join(f"{rate:g}x{seconds:g}" for rate, seconds in steps)


def run(stage: Stage, plan: Plan, folder: Path) -> Finding:
    """Send the crowd."""
    traffic = {"load": stage.traffic(plan.arrivals(stage.capacity_rps))}
    outcome = Run("Spike", traffic, plan.ends_s + plan.after_s).perform(stage)
    outcome.write(folder)
    records, overall = outcome.result.records, outcome.summary.overall
    back_s = requests.back_after_s(records, stage.slo, event_s=plan.ends_s, window_s=plan.window_s)
    unhinted = requests.num_without_retry_after(records)
    figures: dict[str, Any] = {
        "requests": overall.requests,
        "refused": requests.num_refused(records),
        "refused_without_retry_after": unhinted,
        "broken": requests.num_broken(records),
        "back_within_slo_after_s": back_s,
        "ttft_ms": requests.quantiles(overall.ttft_ms),
        "longest_s": requests.longest_s(records),
    }
    checks = (
        at_most("back_within_slo_after_s", plan.most_recovery_s, back_s),
        at_most("refused_without_retry_after", 0, unhinted),
        at_most("broken", 0, figures["broken"]),
    )
    return Finding(NAME, figures, checks, doubts([outcome.summary]))
