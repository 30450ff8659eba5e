"""Scaling all models of the platform, inside of Ray Serve's controller.

Ray Serve asks for each deployment by itself; what is decided for one model depends on the others,
which share the GPUs, and on what was learned before the latest deployment. So there is one
`Autoscaler` in the controller's process, `shared`, and the policies that Serve constructs only ask
it. Serve pickles their module by value, so that its globals are copies; this module's are not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from serving.scaling.budget import Claim, pressure, share
from serving.scaling.cold_start import ColdStarts
from serving.scaling.guard import GuardedPolicy, Trouble
from serving.scaling.policy import Bounds, Decision, NeedKind, SloPolicy, Tuning
from serving.scaling.signals import Capacity, Replicas, Signals

TICK_S = 5.0
"""Between two decisions on a model; Ray Serve asks several times a second."""
_PRESSURE_STEP = 0.1
"""Of the way to the latest figures, at each decision: a minute's mean."""
_HOLDS = 2.0
"""Times the time for which replicas are held anyway: so long others must have wanted them more."""
_FORGOTTEN_S = 60.0
"""A model that Serve has not asked about for so long is not deployed any more."""

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """What the autoscaler must know of a model.

    `gpus` are those of one replica. `allowed_bad_ratio` is the share of tokens that may be late.
    """

    capacity: Capacity
    bounds: Bounds
    cold_start_s: float
    quantile: float
    gpus: int
    allowed_bad_ratio: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """A model's replicas as Serve sees them, and what they report by themselves."""

    replicas: Replicas
    told: Callable[[], Signals | None]


class Figures(Protocol):
    """Where signals come from."""

    def latest(self, *, now_s: float) -> Mapping[str, Signals]:
        """By model, without waiting."""


class Observer(Protocol):
    """Is told what is decided: metrics."""

    def decided(self, model: str, report: Report) -> None:
        """A decision was made."""

    def troubled(self, model: str, trouble: Trouble, times: int) -> None:
        """Figures were not used."""

    def forgotten(self, model: str) -> None:
        """The model is not deployed any more."""


@dataclass(frozen=True, slots=True)
class Report:
    """The latest decision on one model.

    `granted` of the `decision.desired` replicas fit the budget. `signals_age_s` is `None` while
    there are no figures.
    """

    decision: Decision
    granted: int
    replicas: Replicas
    signals_age_s: float | None
    cold_start_s: float
    capacity_ratio: float

    @property
    def reason(self) -> str:
        """Why so many, in words."""
        withheld = self.decision.desired - self.granted
        if not withheld:
            return self.decision.reason
        return f"{self.decision.reason}; the GPU budget withholds {withheld}"

    def to_status(self) -> dict[str, Any]:
        """As `galerne status` shows it."""
        age_s = self.signals_age_s
        return {
            "desired": self.granted,
            "current": self.replicas.ready,
            "reason": self.reason,
            "signals_age_s": None if age_s is None else round(age_s, 1),
        }


class Autoscaler:
    """Decides on all models.

    Args:
        figures: what Prometheus tells.
        observer: is told of every decision.
        budget: GPUs for all models together.
        now: monotonic clock, in seconds.
    """

    def __init__(
        self,
        figures: Figures,
        observer: Observer,
        *,
        budget: int | None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.figures = figures
        self.budget = budget
        self._observer = observer
        self._now = now
        self._models: dict[str, _ScaledModel] = {}

    def plan(self, name: str, plan: ModelPlan) -> None:
        """Scale a model by this plan; what was learned by the same one is kept."""
        known = self._models.get(name)
        if known is None or known.plan != plan:
            self._models[name] = _ScaledModel(plan)

    def decide(self, name: str, fleet: Fleet) -> int:
        """How many replicas the model shall have; returns at once."""
        now_s, model = self._now(), self._models[name]
        model.asked_at_s = now_s
        model.replicas = fleet.replicas
        model.cold_starts.observe(now_s, target=fleet.replicas.target, ready=fleet.replicas.ready)
        if model.decided_at_s is None or now_s - model.decided_at_s >= TICK_S:
            model.decided_at_s = now_s
            model.decide(self.figures.latest(now_s=now_s).get(name), fleet, now_s=now_s)
            self._share(now_s)
            self._observe(name, model, fleet)
        return model.granted

    def wake(self, name: str) -> None:
        """A request waits for a first replica of the model: decide at once."""
        if (model := self._models.get(name)) is not None:
            model.wake()

    def failed(self, name: str) -> None:
        """Nothing could be decided on the model, which keeps its replicas."""
        self._observer.troubled(name, Trouble.POLICY_FAILED, 1)

    @property
    def now_s(self) -> float:
        """Seconds of the autoscaler's clock."""
        return self._now()

    def reports(self) -> dict[str, Report]:
        """The latest decision on each model that is deployed."""
        return {name: model.report() for name, model in self._deployed(self._now()).items()}

    def _deployed(self, now_s: float) -> dict[str, _ScaledModel]:
        return {
            name: model
            for name, model in self._models.items()
            if model.asked_at_s is not None and now_s - model.asked_at_s < _FORGOTTEN_S
        }

    def _share(self, now_s: float) -> None:
        """Grant replicas by the budget. What a model holds and wants it loses to others only when
        they have wanted it more for a while: it costs two cold starts to be wrong."""
        deployed = self._deployed(now_s)
        for name in self._models.keys() - deployed.keys():
            # Its plan stays: a controller that stood still asks about all again, one by one.
            if self._models[name].asked_at_s is not None:
                self._models[name].asked_at_s = None
                self._observer.forgotten(name)
        claims = {name: model.claim() for name, model in deployed.items()}
        fair = share(claims, budget=self.budget)
        for name, model in deployed.items():
            model.note_share(fair[name], now_s)
        kept = {
            name: claim if deployed[name].has_lost(now_s) else replace(claim, kept=claim.held)
            for name, claim in claims.items()
        }
        for name, granted in share(kept, budget=self.budget).items():
            deployed[name].granted = granted

    def _observe(self, name: str, model: _ScaledModel, fleet: Fleet) -> None:
        report = model.report()
        self._observer.decided(name, report)
        for trouble, times in model.new_troubles().items():
            self._observer.troubled(name, trouble, times)
        if (error := model.new_error()) is not None:
            logger.error("the policy of %s failed", name, exc_info=error)
        if report.granted != fleet.replicas.target:
            logger.info(
                "scale %s from %d to %d replicas: %s",
                name, fleet.replicas.target, report.granted, report.reason,
            )  # fmt: skip


class _ScaledModel:
    """One model: its policy, what was learned of it, decided on it and granted to it."""

    def __init__(self, plan: ModelPlan) -> None:
        self.plan = plan
        self.cold_starts = ColdStarts(first_guess_s=plan.cold_start_s)
        self.asked_at_s: float | None = None
        self.decided_at_s: float | None = None
        self.replicas = Replicas(0, 0)
        self.granted = 0
        tuning = Tuning.of(plan.cold_start_s, quantile=plan.quantile)
        self._policy = SloPolicy(
            plan.capacity,
            plan.bounds,
            replace(tuning, allowed_bad_ratio=plan.allowed_bad_ratio),
        )
        self._guarded = GuardedPolicy(self._policy)
        self._told_troubles: dict[Trouble, int] = {}
        self._decision = Decision(0, "nothing decided yet")
        self._signals: Signals | None = None
        self._classes: frozenset[str] = frozenset()
        self._pressure = 1.0
        self._short_since_s: float | None = None
        self._is_woken = False

    def decide(self, measured: Signals | None, fleet: Fleet, *, now_s: float) -> None:
        """Make a decision."""
        self._policy.reckon_with(self.cold_starts.expected_s)
        self._signals = measured
        if measured is not None:
            now = pressure(measured.bad_ratio, self.plan.allowed_bad_ratio)
            self._pressure += _PRESSURE_STEP * (now - self._pressure)
            self._classes = measured.active_classes
        told = fleet.told()
        if told is not None:  # replicas do not know tenants
            told = replace(told, active_classes=self._classes)
        decision = self._guarded.decide(measured, told, fleet.replicas, now_s=now_s)
        if self._is_woken and decision.desired == 0:  # without figures the guard holds
            decision = replace(decision, desired=1, reason="a request waits for a first replica")
        self._decision, self._is_woken = decision, False

    def wake(self) -> None:
        """Decide anew, in the knowledge that a request waits."""
        self._policy.wake()
        self._is_woken, self.decided_at_s = True, None

    def claim(self) -> Claim:
        """What the model asks of the budget."""
        floors = (need.replicas for need in self._decision.needs if need.kind is NeedKind.FLOOR)
        return Claim(
            desired=self._decision.desired,
            lowest=self.plan.bounds.lowest,
            held=self.replicas.target,
            gpus=self.plan.gpus,
            pressure=self._pressure,
            promised=int(max(floors, default=0)),
        )

    def note_share(self, fair: int, now_s: float) -> None:
        """The budget would grant so many, if nobody kept what is held."""
        is_short = fair < min(self.replicas.target, self._decision.desired)
        if not is_short:
            self._short_since_s = None
        elif self._short_since_s is None:
            self._short_since_s = now_s

    def has_lost(self, now_s: float) -> bool:
        """Whether others have wanted for long what the model holds."""
        since_s = self._short_since_s
        return since_s is not None and now_s - since_s >= _HOLDS * self._policy.hold_s

    def report(self) -> Report:
        """The latest decision."""
        return Report(
            self._decision,
            granted=self.granted,
            replicas=self.replicas,
            signals_age_s=self._signals.age_s if self._signals else None,
            cold_start_s=self.cold_starts.expected_s,
            capacity_ratio=self._policy.capacity_ratio,
        )

    def new_troubles(self) -> dict[Trouble, int]:
        """Those since the last call."""
        now = dict(self._guarded.troubles)
        new = {name: times - self._told_troubles.get(name, 0) for name, times in now.items()}
        self._told_troubles = now
        return {name: times for name, times in new.items() if times}

    def new_error(self) -> Exception | None:
        """What the policy has raised since the last call."""
        error, self._guarded.error = self._guarded.error, None
        return error


@dataclass(frozen=True, slots=True)
class Shared:
    """The process's autoscaler, and where it shows its metrics."""

    autoscaler: Autoscaler
    metrics_url: str


_shared: list[Shared] = []


def share_autoscaler(make: Callable[[], Shared]) -> Autoscaler:
    """The process's one autoscaler, made by the first who asks."""
    if not _shared:
        _shared.append(make())
    return _shared[0].autoscaler


def shared() -> Shared | None:
    """The process's autoscaler, if it has one."""
    return _shared[0] if _shared else None
