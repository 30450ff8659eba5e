"""One demand, one fleet, one policy: what it costs and what its clients see."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np

from serving.lab.demand import Demand
from serving.lab.fleet import Slo, VirtualFleet
from serving.lab.replay import Ints, Rules
from serving.scaling.policy import Decision
from serving.scaling.signals import Replicas, Signals

TICK_S = 5.0
"""Between two decisions; Prometheus scrapes as often."""
_RATE_S = 30.0
"""Rates and ratios are taken over so long, as recording rules do."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all policies of an experiment have in common."""

    demand: Demand
    rules: Rules
    slo: Slo
    cold_start_s: float
    first_replicas: int
    max_replicas: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What a policy is shown; `in_flight` are requests with a replica or waiting for one."""

    signals: Signals
    replicas: Replicas
    in_flight: int


Bools = np.ndarray[Any, np.dtype[np.bool_]]
Scaler = Callable[[Seen], Decision]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an experiment.

    `violation_s` is the time in windows in which too few first tokens or times between tokens were
    good; `goodput_ratio` the share of requests whose TTFT and mean time between tokens both were.
    """

    policy: str
    violation_s: float
    replica_s: float
    goodput_ratio: float
    direction_changes_per_10min: float

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Course:
    """How it came about: [num_ticks] each, and what was decided when, if it was new."""

    at_s: list[float]
    target: list[int]
    held: list[int]
    decisions: list[tuple[float, Decision]]
    fleet: VirtualFleet


def experiment(name: str, setting: Setting, scaler: Scaler) -> tuple[Outcome, Course]:
    """Let the scaler run a fleet through the demand."""
    fleet = VirtualFleet(
        setting.demand,
        setting.rules,
        cold_start_s=setting.cold_start_s,
        num_ready=setting.first_replicas,
        max_replicas=2 * setting.max_replicas,
    )
    course = Course([], [], [], [], fleet)
    target, end_s = setting.first_replicas, setting.demand.span_s
    while fleet.now_s < end_s:
        fleet.advance(fleet.now_s + TICK_S)
        decision = scaler(observe(fleet, target))
        if decision.desired != target:
            course.decisions.append((fleet.now_s, decision))
        target = min(decision.desired, setting.max_replicas)
        fleet.scale(target)
        census = fleet.census()
        course.at_s.append(fleet.now_s)
        course.target.append(target)
        course.held.append(census.starting + census.ready + census.draining)
    replica_s = fleet.replica_s
    fleet.advance(end_s + 600.0)  # what has begun comes to its end
    outcome = Outcome(
        name,
        violation_s=violation_s(fleet, setting),
        replica_s=round(replica_s, 1),
        goodput_ratio=round(goodput_ratio(fleet, setting.slo), 5),
        direction_changes_per_10min=round(direction_changes(course) / (end_s / 600.0), 3),
    )
    return outcome, course


def observe(fleet: VirtualFleet, target: int) -> Seen:
    """What metrics would tell."""
    state, now_s, rules = fleet.state, fleet.now_s, fleet.rules
    last = int(now_s / rules.window_s)
    first = max(last - math.ceil(_RATE_S / rules.window_s), 0)
    span_s = max((last - first) * rules.window_s, rules.window_s)
    recent = slice(first, max(last, first + 1))
    counts = state.counts
    arrivals = int(counts.arrivals[recent].sum())
    census = fleet.census()
    ready = max(census.ready, 1)
    waiting = int(state.replicas.num_queued.sum())
    in_flight = waiting + int(state.replicas.num_running.sum())
    queued = fleet.num_waiting_for_any
    signals = Signals(
        at_s=now_s,
        requests_per_s=arrivals / span_s,
        prompt_tokens_per_s=int(counts.prompt_tokens[recent].sum()) / span_s,
        output_tokens_per_s=int(counts.output_tokens[recent].sum()) / span_s,
        waiting_tokens=float(state.replicas.waiting_tokens.sum()),
        queued=queued,
        running=in_flight,
        waiting=waiting,
        kv_used_ratio=min(
            float(state.replicas.reserved_tokens.sum()) / rules.kv_tokens / ready, 1.0
        ),
        late_ttft_ratio=_ratio(counts.late_first_tokens[recent], counts.first_tokens[recent]),
        long_itl_ratio=_ratio(counts.long_gaps[recent], counts.gaps[recent]),
    )
    return Seen(signals, Replicas(target, census.ready), in_flight + queued)


def _ratio(some: Ints, of: Ints) -> float:
    return int(some.sum()) / max(int(of.sum()), 1)


def violation_s(fleet: VirtualFleet, setting: Setting) -> float:
    """Time in windows of the demand in which the SLO was not kept."""
    return float(missed_windows(fleet, setting).sum() * setting.slo.window_s)


def missed_windows(fleet: VirtualFleet, setting: Setting) -> Bools:
    """[num_windows] of the demand: whether the SLO was not kept in each."""
    slo, requests, counts = setting.slo, fleet.state.requests, fleet.state.counts
    num_windows = math.ceil(setting.demand.span_s / slo.window_s)
    window = np.minimum((requests.at_s / slo.window_s).astype(np.int64), num_windows - 1)
    is_late = requests.first_token_s - requests.at_s > slo.longest_ttft_s
    arrivals = np.bincount(window, minlength=num_windows)
    late = np.bincount(window, weights=is_late, minlength=num_windows)
    allowed = 1.0 - slo.ratio + 1e-9
    return cast(
        "Bools",
        (late > allowed * arrivals)
        | (counts.long_gaps[:num_windows] > allowed * counts.gaps[:num_windows]),
    )


def goodput_ratio(fleet: VirtualFleet, slo: Slo) -> float:
    """The share of requests that ended, and whose TTFT and mean time between tokens were good."""
    requests = fleet.state.requests
    is_prompt = requests.first_token_s - requests.at_s <= slo.longest_ttft_s
    num_gaps = np.maximum(requests.output_tokens - 1, 1)
    with np.errstate(invalid="ignore"):
        mean_gap_s = (requests.end_s - requests.first_token_s) / num_gaps
    is_complete = np.isfinite(requests.end_s)
    return float((is_complete & is_prompt & (mean_gap_s <= slo.itl_s)).mean())


def direction_changes(course: Course) -> int:
    """How often the target turned from rising to falling or back.

    >>> direction_changes(Course([], [1, 2, 2, 3, 1, 1, 2], [], [], None))
    2
    """
    steps = np.sign(np.diff(course.target))
    steps = steps[steps != 0]
    return int((np.diff(steps) != 0).sum())
