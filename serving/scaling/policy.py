"""The number of replicas that keeps a model's SLO at the least GPU time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Self

from serving.scaling.forecast import DemandForecast
from serving.scaling.signals import Capacity, Replicas, Signals

_BATCH_FULL_RATIO = 0.95
_KV_FULL_RATIO = 0.9
"""Above this, engines begin to preempt."""
DEFAULT_QUANTILE = 0.85
_MIN_HOLD_S = 60.0
_WAKING_S = 60.0
_LEARNING = 0.02
_MIN_LEARNED = 0.6


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a model may have: `lowest` and `highest` replicas, at most `max_step` more at once, and
    `spares` ready beyond what is needed.

    Where `lowest` is 0 the last one goes after `idle_s` without a request. A replica takes
    `requests_per_replica` at once and decodes `sequences_per_replica` of them together. `floors`
    are the fewest replicas while a class of tenants uses the model.
    """

    lowest: int = 1
    highest: int = 1
    max_step: int = 1_000
    spares: int = 0
    idle_s: float = 900.0
    requests_per_replica: float = math.inf
    sequences_per_replica: float = math.inf
    floors: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tuning:
    """How the policy weighs caution against cost. Times in seconds.

    `cold_start_s` from a replica's order until it is ready. `hold_s` is how long fewer replicas
    must have been enough before some go: at least a cold start, since what was forecast within the
    last one is yet to come. Prompts that wait are to be read within `clear_s`. The others are those
    of `DemandForecast`. `allowed_bad_ratio` is the share of tokens that the SLO lets be late.
    """

    cold_start_s: float
    hold_s: float
    allowed_bad_ratio: float = 0.01
    clear_s: float = 60.0
    quantile: float = DEFAULT_QUANTILE
    level_s: float = 15.0
    memory_s: float = 14_400.0
    first_guess: float = 1.3

    @classmethod
    def of(cls, cold_start_s: float, *, quantile: float = DEFAULT_QUANTILE) -> Self:
        """The usual tuning."""
        return cls(cold_start_s=cold_start_s, hold_s=_hold_s(cold_start_s), quantile=quantile)


class NeedKind(StrEnum):
    """What replicas are needed for; label values of a metric."""

    DEMAND = "demand"
    BACKLOG = "backlog"
    KV = "kv"
    RUNNING = "running"
    WAKE = "wake"
    FLOOR = "floor"


_OF_SLEEPERS = (NeedKind.WAKE, NeedKind.FLOOR)


@dataclass(frozen=True, slots=True)
class Need:
    """`replicas` that one thing calls for, and why in words."""

    kind: NeedKind
    replicas: float
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """`desired` replicas, why in words, and all needs that there are."""

    desired: int
    reason: str
    needs: tuple[Need, ...] = ()


class SloPolicy:
    """Feed-forward from the forecast of the demand, feedback from what waits and from the SLO.

    What is ordered now helps a cold start later, so the demand expected until then decides; what is
    let go can be had back no sooner, so the highest need of the last `hold_s` does.

    Args:
        capacity: of one replica.
        bounds: of the model.
        tuning: caution against cost.
    """

    def __init__(self, capacity: Capacity, bounds: Bounds, tuning: Tuning) -> None:
        self._capacity = capacity
        self._bounds = bounds
        self._tuning = tuning
        self._learned = 1.0  # of the capacity
        self._forecast = DemandForecast(
            horizon_s=tuning.cold_start_s,
            quantile=tuning.quantile,
            level_s=tuning.level_s,
            memory_s=tuning.memory_s,
            first_guess=tuning.first_guess,
        )
        self._needs: deque[tuple[float, float]] = deque()
        self._desired: int | None = None
        self._used_at_s: float | None = None
        self._is_woken = False
        self._idle_s = 0.0
        self._slept_at_s = -math.inf

    @property
    def capacity_ratio(self) -> float:
        """What a replica is taken to do, as a share of what was measured."""
        return self._learned

    @property
    def hold_s(self) -> float:
        """How long fewer replicas must have been enough before some go."""
        return self._tuning.hold_s

    def wake(self) -> None:
        """A request waits for a first replica, which figures may not tell yet."""
        self._is_woken = True

    def reckon_with(self, cold_start_s: float) -> None:
        """Replicas have turned out to take so long to start."""
        hold_s = _hold_s(cold_start_s)
        self._tuning = replace(self._tuning, cold_start_s=cold_start_s, hold_s=hold_s)
        self._forecast.horizon_s = cold_start_s

    def decide(self, signals: Signals, replicas: Replicas) -> Decision:
        """How many replicas there shall be. The signals must have no `problem`."""
        work = self._capacity.work(signals.prompt_tokens_per_s, signals.output_tokens_per_s)
        demand = work * signals.demand_factor
        self._forecast.observe(signals.at_s, demand)
        self._learn(signals, replicas, work)
        self._note_use(signals)
        needs = (
            self._for_demand(signals),
            self._for_backlog(signals, demand),
            self._for_kv(signals, replicas),
            self._for_running(signals, replicas),
            self._to_wake(signals),
            self._for_classes(signals),
        )
        # Whatever the forecast, nobody asks of a model that may sleep.
        counted = [need for need in needs if not self._may_sleep or need.kind in _OF_SLEEPERS]
        need = max(counted, key=lambda one: one.replicas)
        decision = self._bounded(need, signals, replicas)
        self._desired, self._is_woken = decision.desired, False
        return replace(decision, needs=needs)

    def _for_demand(self, signals: Signals) -> Need:
        forecast = self._forecast
        reason = f"{forecast.level:.1f} replicas busy, {forecast.expected:.1f} expected"
        if signals.demand_factor > 1.0:
            reason += (
                f"; {signals.demand_factor:.1f} times what was taken in, since some is refused"
            )
        if self._learned < 1.0:
            reason += f"; each takes {self._learned:.0%} of what was measured"
        replicas = self._capacity.replicas_for(forecast.expected) / self._learned
        return Need(NeedKind.DEMAND, replicas, reason)

    def _for_backlog(self, signals: Signals, demand: float) -> Need:
        waiting_s = signals.waiting_tokens * self._capacity.prompt_token_s
        reason = f"prompts of {waiting_s:.1f} replica seconds wait"
        return Need(NeedKind.BACKLOG, demand + waiting_s / self._tuning.clear_s, reason)

    def _for_kv(self, signals: Signals, replicas: Replicas) -> Need:
        """Room for what is cached, and where caches are full for what waits: as much for each as a
        running request holds, which under a sliding window is never more than the window."""
        used = signals.kv_used_ratio
        reason = f"KV caches {used:.0%} full"
        begun = signals.running - signals.waiting
        if used >= _KV_FULL_RATIO and begun > 0:
            used *= signals.wanted_requests / begun
            reason += f", {signals.wanted_requests - begun:.0f} requests want room"
        if signals.preemptions_per_s > 0:
            reason += f", {signals.preemptions_per_s:.1f} preemptions per second"
            used = max(used, _KV_FULL_RATIO * (replicas.ready + 1) / max(replicas.ready, 1))
        return Need(NeedKind.KV, replicas.ready * used / _KV_FULL_RATIO, reason)

    def _for_running(self, signals: Signals, replicas: Replicas) -> Need:
        """What a replica that goes cannot finish, another one has to take over; and where batches
        are full, what waits for a place in one needs places too. Tokens that come out tell nothing
        of a demand beyond what all batches give."""
        bounds, places = self._bounds, self._bounds.sequences_per_replica
        begun = signals.running - signals.waiting
        if signals.waiting > 0 and begun >= _BATCH_FULL_RATIO * replicas.ready * places:
            wanted = signals.wanted_requests
            reason = f"{wanted:.0f} requests run or want to, {places:.0f} fit a replica's batch"
            return Need(NeedKind.RUNNING, wanted / places, reason)
        number = signals.running * signals.demand_factor
        what = "run" if number == signals.running else "run or were refused"
        reason = f"{number:.0f} requests {what}"
        return Need(NeedKind.RUNNING, number / bounds.requests_per_replica, reason)

    def _to_wake(self, signals: Signals) -> Need:
        return Need(
            NeedKind.WAKE,
            float(signals.queued > 0 or self._is_woken),
            "requests wait for a first replica",
        )

    def _for_classes(self, signals: Signals) -> Need:
        floors = {name: self._bounds.floors.get(name, 0) for name in signals.active_classes}
        name = max(floors, key=lambda name: floors[name], default="")
        reason = f"{floors.get(name, 0)} are promised to tenants of class {name}"
        return Need(NeedKind.FLOOR, float(floors.get(name, 0)), reason)

    @property
    def _may_sleep(self) -> bool:
        return self._bounds.lowest == 0 and self._idle_s >= self._bounds.idle_s

    def _note_use(self, signals: Signals) -> None:
        in_use = signals.requests_per_s > 0 or signals.queued > 0 or signals.running > 0
        if in_use or self._is_woken or self._used_at_s is None:
            self._used_at_s = signals.at_s
        self._idle_s = signals.at_s - self._used_at_s

    def _learn(self, signals: Signals, replicas: Replicas, work: float) -> None:
        """Late tokens without more work than a replica should take, and without a queue that is
        left of more, tell that it takes less."""
        if replicas.ready == 0:
            self._slept_at_s = signals.at_s
        if not signals.has_latencies or signals.at_s - self._slept_at_s < _WAKING_S:
            return  # who has woken the model is late whatever replicas can do
        if signals.waiting_tokens * self._capacity.prompt_token_s > replicas.ready:
            return  # more than a second each
        is_late = signals.bad_ratio > self._tuning.allowed_bad_ratio
        needed_ratio = self._capacity.replicas_for(work) / self._learned / max(replicas.ready, 1)
        if is_late and needed_ratio < 1.0:
            self._learned = max(self._learned - _LEARNING, _MIN_LEARNED)
        elif not is_late and needed_ratio > 0.9:
            self._learned = min(self._learned + _LEARNING / 4, 1.0)

    def _bounded(self, need: Need, signals: Signals, replicas: Replicas) -> Decision:
        bounds = self._bounds
        if self._may_sleep:
            self._needs.clear()
            kept = max(
                bounds.spares, math.ceil(need.replicas) if need.kind == NeedKind.FLOOR else 0
            )
            reason = need.reason if kept > bounds.spares else f"no request for {self._idle_s:.0f} s"
            return Decision(min(kept, bounds.highest), reason)
        # What was needed before the first decision is unknown, and was probably there.
        if self._desired is None:
            self._needs.append((signals.at_s, float(replicas.target - bounds.spares)))
        self._needs.append((signals.at_s, need.replicas))
        while self._needs[0][0] <= signals.at_s - self._tuning.hold_s:
            self._needs.popleft()
        highest = max(number for _, number in self._needs)
        desired, reason = math.ceil(highest - 1e-9) + bounds.spares, need.reason
        if desired > math.ceil(need.replicas - 1e-9) + bounds.spares:
            reason = f"{desired} were needed within the last {self._tuning.hold_s:.0f} s"
        if desired > replicas.target + bounds.max_step:
            desired = replicas.target + bounds.max_step
            reason += f"; at most {bounds.max_step} more at once"
        # The last one of an idle model stays a while.
        lowest = max(bounds.lowest, min(replicas.target, 1))
        if not lowest <= desired <= bounds.highest:
            reason += f"; {lowest} to {bounds.highest} allowed"
        return Decision(min(max(desired, lowest), bounds.highest), reason)


def _hold_s(cold_start_s: float) -> float:
    return max(cold_start_s, _MIN_HOLD_S)
