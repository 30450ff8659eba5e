"""Choosing a replica: filter, score, pick. Pure over snapshots; randomness is injected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random

from serving.core.types import ReplicaId
from serving.routing.policies import Judgement, Policy
from serving.routing.snapshots import ReplicaSnapshot, RequestProfile

_TIE = 1e-9


class Obstacle(StrEnum):
    """Why a replica cannot have a request now."""

    FAILED = "failed this request"
    FULL = "at its limit"
    DRAINING = "draining"
    WARMING_UP = "warming up"
    LEAVING = "about to go"
    SILENT = "not heard of for a while"
    FAILING = "failed the last requests"
    LOST = "not heard of for too long"


@dataclass(frozen=True, slots=True)
class Considered:
    """One replica in a decision: why it was out of the question, or what spoke for it."""

    replica: ReplicaId
    obstacle: Obstacle | None
    score: float = 0.0
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """`replica` is `None` when every one has an obstacle. The rest is worked out if it is asked."""

    replica: ReplicaId | None
    offered: Sequence[tuple[ReplicaSnapshot, Obstacle | None]]
    judgement: Judgement | None

    @property
    def reason(self) -> str:
        """The score in which the replica was the furthest ahead of the next best."""
        if self.judgement is None or self.replica is None:
            return "none is free"
        free = [replica.id for replica, obstacle in self.offered if obstacle is None]
        return _reason(self.judgement, free.index(self.replica))

    @property
    def considered(self) -> list[Considered]:
        """Every replica, in the order they were offered."""
        rows, place = [], 0
        for replica, obstacle in self.offered:
            if obstacle is not None or self.judgement is None:
                rows.append(Considered(replica.id, obstacle))
                continue
            scores = {name: values[place] for name, values in self.judgement.scores.items()}
            rows.append(Considered(replica.id, None, self.judgement.totals[place], scores))
            place += 1
        return rows


def choose(
    request: RequestProfile,
    replicas: Sequence[tuple[ReplicaSnapshot, Obstacle | None]],
    policy: Policy,
    rng: Random,
) -> Decision:
    """The replica with the highest total of those without an obstacle, ties broken at random, so
    that gateways that know nothing of each other do not choose in step.

    >>> from serving.routing.policies import LeastTokens
    >>> a, b = ReplicaSnapshot(ReplicaId("a"), in_flight=3), ReplicaSnapshot(ReplicaId("b"))
    >>> request, policy = RequestProfile(9, 9), LeastTokens()
    >>> choose(request, [(a, None), (b, None)], policy, Random(0)).replica
    'b'
    >>> choose(request, [(a, None), (b, Obstacle.FULL)], policy, Random(0)).reason
    'only one'
    """
    free = [replica for replica, obstacle in replicas if obstacle is None]
    if not free:
        return Decision(None, replicas, None)
    judgement = policy.judge(request, free, rng)
    return Decision(free[_pick(judgement.totals, rng)].id, replicas, judgement)


def warming_up(replicas: Sequence[ReplicaSnapshot], *, warm_up_s: float) -> frozenset[ReplicaId]:
    """New replicas that have enough for now.

    A new replica has the shortest queue and would get everything at once, with nothing cached and
    nothing compiled. For its first `warm_up_s` it may hold one request more than a share of what
    the others hold on average, and that share grows with its time. When all are new, none is held
    back.

    >>> old = ReplicaSnapshot(ReplicaId("old"), in_flight=10)
    >>> new = ReplicaSnapshot(ReplicaId("new"), in_flight=3, known_for_s=2)
    >>> sorted(warming_up([old, new], warm_up_s=10))
    ['new']
    """
    settled = [replica for replica in replicas if replica.known_for_s >= warm_up_s]
    if not settled:
        return frozenset()
    mean = sum(replica.in_flight for replica in settled) / len(settled)
    return frozenset(
        replica.id
        for replica in replicas
        if replica.known_for_s < warm_up_s
        and replica.in_flight >= 1 + mean * replica.known_for_s / warm_up_s
    )


def _pick(totals: Sequence[float], rng: Random) -> int:
    best = max(totals)
    return rng.choice([index for index, total in enumerate(totals) if total >= best - _TIE])


def _reason(judgement: Judgement, best: int) -> str:
    others = [total for index, total in enumerate(judgement.totals) if index != best]
    if not others:
        return "only one"
    second = next(
        index
        for index, total in enumerate(judgement.totals)
        if index != best and total == max(others)
    )
    leads = {name: scores[best] - scores[second] for name, scores in judgement.scores.items()}
    return max(leads, key=lambda name: leads[name])
