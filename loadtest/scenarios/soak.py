"""Does anything leak when it runs for long?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.report.files import write_picture
from loadtest.scenarios import sampling
from loadtest.scenarios.finding import Finding
from loadtest.scenarios.pictures import processes
from loadtest.scenarios.sampling import Watched
from loadtest.scenarios.stage import Run, Stage
from loadtest.scenarios.trends import Growth, LeakLimits, growth
from loadtest.verdict.checks import at_most, failed_ratio
from loadtest.verdict.summary import Check

NAME = "soak"
_SAMPLES = 400
_SHORTEST_PERIOD_S = 0.25
_LASTING_ROLES = frozenset({"gateway", "engine", "haproxy"})
"""Ray comes and goes with workers of its own; these stay."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A constant rate for long. A process leaks if its memory or its open files go on growing by
    more than these limits; see `trends.growth`. Latencies are not judged, so that a generator that
    is late for a moment of a long run does not spoil it."""

    duration_s: float = 1800.0
    load_ratio: float = 0.6
    most_failed_ratio: float = 0.01
    rss_mib: LeakLimits = field(default=LeakLimits(per_hour=16.0, least_growth=4.0))
    num_fds: LeakLimits = field(default=LeakLimits(per_hour=60.0, least_growth=16.0))

    @property
    def period_s(self) -> float:
        """Between two samples: enough of them for a slope, few enough to compare all pairs."""
        return max(self.duration_s / _SAMPLES, _SHORTEST_PERIOD_S)


def run(stage: Stage, plan: Plan, folder: Path) -> Finding:
    """Load it for long and watch every process."""
    roles = stage.local(NAME).processes()
    rate = plan.load_ratio * stage.capacity_rps
    load = Run("Soak", {"load": stage.traffic(f"constant:{rate:g}")}, plan.duration_s)
    with sampling.watching(roles, period_s=plan.period_s) as watched:
        outcome = load.perform(stage)
    outcome.write(folder)
    sampling.write(watched, folder / "processes.parquet")
    write_picture(folder, processes([process for process in watched if process.at_s]))
    found, checks = judge(watched, plan)
    overall = outcome.summary.overall
    figures: dict[str, Any] = {
        "requests": overall.requests,
        "failed_ratio": failed_ratio(overall),
        "goodput_rps": overall.goodput_rps,
        "detectable_rss_mib_per_hour": plan.rss_mib.detectable_per_hour(plan.duration_s),
        "detectable_fds_per_hour": plan.num_fds.detectable_per_hour(plan.duration_s),
        **found,
    }
    served = at_most("failed_ratio", plan.most_failed_ratio, figures["failed_ratio"])
    return Finding(NAME, figures, (*checks, served))


def judge(watched: Sequence[Watched], plan: Plan) -> tuple[dict[str, Any], tuple[Check, ...]]:
    """How each role's processes grew, and whether any leaks or has ended."""
    rss = {id(p): growth(_array(p.at_s), _array(p.rss_mib), plan.rss_mib) for p in watched}
    fds = {id(p): growth(_array(p.at_s), _array(p.num_fds), plan.num_fds) for p in watched}
    by_role = {
        role: {
            "processes": len(members),
            "rss_mib": sum(p.rss_mib[-1] for p in members if p.rss_mib),
            "rss_mib_per_hour": _fastest(rss[id(p)] for p in members),
            "fds_per_hour": _fastest(fds[id(p)] for p in members),
        }
        for role in sorted({process.role for process in watched})
        if (members := [process for process in watched if process.role == role])
    }
    ended = [p for p in watched if p.has_ended and p.role in _LASTING_ROLES]
    checks = (
        at_most("processes whose memory leaks", 0, _num_leaks(rss.values())),
        at_most("processes whose open files leak", 0, _num_leaks(fds.values())),
        at_most("processes that ended", 0, len(ended)),
    )
    return {"roles": by_role, "ended": len(ended)}, checks


def _array(values: Iterable[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(list(values), np.float64)


def _fastest(found: Iterable[Growth | None]) -> float | None:
    """The greatest growth of a role's processes; `None` where the run was too short to tell."""
    return max((one.per_hour for one in found if one is not None), default=None)


def _num_leaks(found: Iterable[Growth | None]) -> int | None:
    known = [one for one in found if one is not None]
    return sum(one.is_leak for one in known) if known else None
