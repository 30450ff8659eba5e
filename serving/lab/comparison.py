"""Several policies on one demand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from serving.errors import ConfigError
from serving.lab import contenders
from serving.lab.capacity import Measured, measure
from serving.lab.contenders import RayTuning
from serving.lab.demand import Demand, bursty_day
from serving.lab.fleet import Slo, rules_of
from serving.lab.scaling import Course, Outcome, Scaler, Setting, experiment
from serving.scaling.policy import DEFAULT_QUANTILE, Bounds, Tuning
from serving.settings.model import ModelSettings

POLICIES = ("ray_default", "ray_default_tuned", "keda_threshold", "slo", "oracle")

_PEAK_BLOCK_S = 60.0
_ROOM = 1.5
"""Replicas that policies may have, of the peak."""
_TUNING_HOURS = 2.0
_OTHER_SEED = 1_000_003
_RAY_SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
_RAY_UP_S = (0.0, 30.0)
_RAY_DOWN_S = (60.0, 180.0, 600.0)


@dataclass(frozen=True, slots=True)
class Question:
    """What is compared: replicas of a model with an SLO, as many as the busiest minute needs."""

    model: ModelSettings
    slo: Slo
    peak_replicas: int
    cold_start_s: float
    quantile: float = DEFAULT_QUANTILE
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Bench:
    """A demand scaled to a fleet, and what one replica of that can do."""

    setting: Setting
    replica: Measured


class Comparison:
    """The outcome of each policy, and how it came about.

    Args:
        question: what is compared.
        demand: what is asked of the fleets; a made-up day if there is none.
        policies: some of `POLICIES`; all if there are none.
        tell: is told what goes on.

    Raises:
        ConfigError: there is no such policy, or no replica can keep the SLO.
    """

    def __init__(
        self,
        question: Question,
        demand: Demand | None,
        policies: Sequence[str] | None,
        *,
        tell: Callable[[str], object],
    ) -> None:
        self.policies = policies or POLICIES
        if unknown := [name for name in self.policies if name not in POLICIES]:
            raise ConfigError(
                f"no such policy: {', '.join(unknown)}",
                code="policy_unknown",
                param="--policy",
                hint=f"one of {', '.join(POLICIES)}",
            )
        self.courses: dict[str, Course] = {}
        self._question = question
        self._tell = tell
        self.bench = prepare(question, _day() if demand is None else demand.scaled)
        self._tuning = Tuning.of(question.cold_start_s, quantile=question.quantile)

    def outcomes(self) -> Iterator[Outcome]:
        """Of each policy, as soon as it is known."""
        ray = RayTuning()
        if "ray_default_tuned" in self.policies:
            self._tell("tune Ray's policy on other traffic")
            ray = tune_ray(_other(self._question), self._tuning)
        hours = self.bench.setting.demand.span_s / 3600
        for name in self.policies:
            self._tell(f"replay {hours:.1f} h with {name}")
            scaler = scaler_of(name, self.bench, ray=ray, tuning=self._tuning)
            outcome, self.courses[name] = experiment(name, self.bench.setting, scaler)
            yield outcome

    def decisions(self) -> Iterator[Mapping[str, Any]]:
        """Every change of a target and its reason."""
        for name, course in self.courses.items():
            for at_s, decision in course.decisions:
                row = {"policy": name, "at_s": at_s, "desired": decision.desired}
                yield {**row, "reason": decision.reason}

    @property
    def summary(self) -> str:
        """What was replayed."""
        requests, replica = self.bench.setting.demand.at_s.size, self.bench.replica
        return (
            f"{requests:,} requests; within the SLO a replica has {replica.in_flight:.0f} in "
            f"flight, and of 10 replicas {replica.capacity.work_of(10):.1f} may be busy"
        )


Scalable = Callable[[float, np.random.Generator], Demand]
"""A demand so many times as large, with chance from a generator that is new each time."""


def prepare(question: Question, scalable: Scalable) -> Bench:
    """The demand, scaled so that its busiest minute needs as many replicas as asked for.

    Raises:
        ConfigError: the model is not simulated, or no replica can keep the SLO.
    """
    rules = rules_of(question.model, question.slo)
    demand = scalable(1.0, np.random.default_rng(question.seed))
    replica = measure(demand, rules, question.slo)
    capacity = replica.capacity
    peak = float(contenders.work_of(demand, capacity, _PEAK_BLOCK_S).max())
    factor = capacity.work_of(question.peak_replicas) / peak
    scaled = scalable(factor, np.random.default_rng(question.seed))
    work = contenders.work_of(scaled, capacity, _PEAK_BLOCK_S)
    # What no policy can change any more when it begins.
    beginning = work[: math.ceil(question.cold_start_s / _PEAK_BLOCK_S) + 1]
    setting = Setting(
        scaled,
        rules,
        question.slo,
        question.cold_start_s,
        first_replicas=math.ceil(capacity.replicas_for(float(beginning.max()))) + 1,
        max_replicas=math.ceil(_ROOM * question.peak_replicas),
    )
    return Bench(setting, replica)


def scaler_of(policy: str, bench: Bench, *, ray: RayTuning, tuning: Tuning) -> Scaler:
    """One of `POLICIES`, made for the bench."""
    setting, replica = bench.setting, bench.replica
    highest = setting.max_replicas
    bounds = Bounds(1, highest, sequences_per_replica=setting.rules.max_sequences)
    makers: Mapping[str, Callable[[], Scaler]] = {
        "ray_default": lambda: contenders.ray_default(RayTuning(), highest=highest),
        "ray_default_tuned": lambda: contenders.ray_default(ray, highest=highest),
        "keda_threshold": lambda: contenders.KedaThreshold(
            threshold=replica.in_flight, highest=highest
        ),
        "slo": lambda: contenders.slo(replica.capacity, bounds, tuning),
        "oracle": lambda: contenders.oracle(setting, replica.capacity),
    }
    return makers[policy]()


def tune_ray(bench: Bench, tuning: Tuning) -> RayTuning:
    """The tuning of Ray's policy with the least violation that takes no more replica seconds than
    Galerne's own policy does with `tuning`; the cheapest if all take more."""
    own, _ = experiment(
        "slo", bench.setting, scaler_of("slo", bench, ray=RayTuning(), tuning=tuning)
    )

    def tried(candidate: RayTuning) -> tuple[float, float]:
        scaler = contenders.ray_default(candidate, highest=bench.setting.max_replicas)
        outcome, _ = experiment("ray_default_tuned", bench.setting, scaler)
        return max(outcome.replica_s, own.replica_s), outcome.violation_s

    return min(_ray_tunings(bench.replica.in_flight), key=tried)


def _ray_tunings(in_flight: float) -> Iterator[RayTuning]:
    """Around the requests that a replica has in flight when it is used up."""
    for share, up_s, down_s in itertools.product(_RAY_SHARES, _RAY_UP_S, _RAY_DOWN_S):
        yield RayTuning(share * in_flight, up_s, down_s)


def _other(question: Question) -> Bench:
    """Traffic that is not the one compared on."""
    other = replace(question, seed=question.seed + _OTHER_SEED)
    return prepare(other, _day(hours=_TUNING_HOURS))


def _day(*, hours: float = 24.0) -> Scalable:
    return lambda factor, rng: bursty_day(rng, hours=hours, per_s=factor)
