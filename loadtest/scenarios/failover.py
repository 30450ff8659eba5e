"""What do clients notice when a replica dies under load?"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.chaos import faults
from loadtest.generator.run import Moment
from loadtest.peers.galerne import Platform
from loadtest.scenarios import requests
from loadtest.scenarios.finding import Finding, doubts
from loadtest.scenarios.stage import Run, Stage
from loadtest.verdict.checks import at_most
from serving.errors import EngineError

NAME = "failover"


@dataclass(frozen=True, slots=True)
class Plan:
    """A constant rate that the remaining replicas can carry; the busiest one is killed after
    `kill_after_s`, or a second or two later: it takes a look at the fleet to find it."""

    duration_s: float = 60.0
    kill_after_s: float = 15.0
    load_ratio: float = 0.4
    most_failed: int = 0
    most_gap_s: float = 5.0
    most_recovery_s: float = 15.0
    window_s: float = 5.0


@dataclass(slots=True)
class Incident:
    """Does something once, `after_s` into a run, in a thread: the run goes on meanwhile."""

    act: Callable[[], None]
    after_s: float
    happened_s: float | None = None
    _thread: threading.Thread | None = field(default=None, repr=False)

    def watch(self, moment: Moment) -> None:
        """To be told each moment of the run."""
        if self._thread is None and moment.elapsed_s >= self.after_s:
            begun = time.perf_counter() - moment.elapsed_s
            self._thread = threading.Thread(target=self._happen, args=(begun,), daemon=True)
            self._thread.start()

    def wait(self) -> float:
        """Seconds into the run at which it happened.

        Raises:
            EngineError: it did not happen.
        """
        if self._thread is not None:
            self._thread.join()
        if self.happened_s is None:
            raise EngineError("no replica could be killed", code="nothing_to_kill")
        return self.happened_s

    def _happen(self, begun: float) -> None:
        self.act()
        self.happened_s = time.perf_counter() - begun


def run(stage: Stage, plan: Plan, folder: Path) -> Finding:
    """Kill the busiest replica while requests come."""
    platform = stage.local(NAME)
    rate = plan.load_ratio * stage.capacity_rps
    incident = Incident(lambda: faults.kill(_busiest(platform, stage.model)), plan.kill_after_s)
    load = Run("Failover", {"load": stage.traffic(f"constant:{rate:g}")}, plan.duration_s)
    outcome = load.perform(stage, incident.watch)
    killed_s = incident.wait()
    outcome.write(folder)
    records = outcome.result.records
    back_s = requests.back_after_s(records, stage.slo, event_s=killed_s, window_s=plan.window_s)
    gap_ms = requests.worst_gap_ms(records)
    figures: dict[str, Any] = {
        "requests": outcome.summary.overall.requests,
        "failed": outcome.summary.overall.failed,
        "errors": dict(outcome.summary.overall.errors),
        "killed_s": killed_s,
        "worst_gap_ms": gap_ms,
        "back_within_slo_after_s": back_s,
        "ttft_ms": requests.quantiles(outcome.summary.overall.ttft_ms),
    }
    checks = (
        at_most("failed", plan.most_failed, figures["failed"]),
        at_most("worst_gap_ms", 1000 * plan.most_gap_s, gap_ms),
        at_most("back_within_slo_after_s", plan.most_recovery_s, back_s),
    )
    return Finding(NAME, figures, checks, doubts([outcome.summary]))


def _busiest(platform: Platform, model: str) -> int:
    """The process of the replica with the most requests."""
    replicas = next(row for row in platform.status()["models"] if row["id"] == model)["replicas"]
    return int(max(replicas, key=lambda row: row["in_flight"] or 0)["pid"])
