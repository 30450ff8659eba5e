"""Ways to judge replicas. Each model has one, by name in its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from serving.core.types import ReplicaId
from serving.routing.scorers import (
    Candidates,
    Scorer,
    Scores,
    freshness,
    locality_scorer,
    score_affinity,
    score_kv_headroom,
    score_lora,
    score_prefix_hit,
    score_ttft,
)
from serving.routing.snapshots import ReplicaSnapshot, RequestProfile
from serving.settings.routing import RoutingWeights


@dataclass(frozen=True, slots=True)
class Judgement:
    """`totals` in the order of the candidates, the highest is best; `scores` is what they are made
    of, by scorer, already weighted."""

    totals: Scores
    scores: Mapping[str, Scores]


class Policy(Protocol):
    """Judges replicas for requests."""

    def judge(self, request: RequestProfile, candidates: Candidates, rng: Random) -> Judgement:
        """What speaks for each of the candidates, of which there is at least one."""

    def picked(self, replica: ReplicaId) -> None:
        """A request has gone to this replica."""


class _Stateless:
    """A policy that does not look back."""

    def picked(self, replica: ReplicaId) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Weighted(_Stateless):
    """`kv_aware` and `prefix_approx`: the weighted sum of several scorers.

    `terms` are a name, a scorer and its weight each. A replica whose reports stay away loses up to
    half of its total.
    """

    terms: Sequence[tuple[str, Scorer, float]]

    def judge(self, request: RequestProfile, candidates: Candidates, rng: Random) -> Judgement:
        del rng
        trust = [freshness(replica) for replica in candidates]
        scores = {
            name: [
                weight * score * share
                for score, share in zip(scorer(request, candidates), trust, strict=True)
            ]
            for name, scorer, weight in self.terms
        }
        return Judgement([sum(column) for column in zip(*scores.values(), strict=True)], scores)


def kv_aware(weights: RoutingWeights, *, node_id: str) -> Weighted:
    """The policy `kv_aware` of a gateway on this node."""
    terms: Sequence[tuple[str, Scorer, float]] = (
        ("ttft", score_ttft, weights.ttft),
        ("prefix_hit", score_prefix_hit, weights.prefix_hit),
        ("kv_headroom", score_kv_headroom, weights.kv_headroom),
        ("lora", score_lora, weights.lora),
        ("session", score_affinity, weights.session),
        ("locality", locality_scorer(node_id), weights.locality),
    )
    return Weighted([term for term in terms if term[2]])


class LeastTokens(_Stateless):
    """`least_tokens`: the fewest prompt tokens waiting and requests in flight. Knows nothing of
    caches; the fair base for comparing with policies that do."""

    def judge(self, request: RequestProfile, candidates: Candidates, rng: Random) -> Judgement:
        del request, rng
        return _only("least_tokens", [-_load(replica) for replica in candidates])


class PowerOfTwo(_Stateless):
    """`power_of_two`: the less loaded of two at random. Nearly as even as asking all, and many
    gateways with old news do not all run to the same replica.

    Source: Mitzenmacher, "The power of two choices in randomized load balancing", 2001.
    """

    def judge(self, request: RequestProfile, candidates: Candidates, rng: Random) -> Judgement:
        del request
        drawn = rng.sample(range(len(candidates)), min(2, len(candidates)))
        totals = [float("-inf")] * len(candidates)
        for index in drawn:
            totals[index] = -_load(candidates[index])
        return _only("power_of_two", totals)


class RoundRobin:
    """`round_robin`: each in turn, in the order of their ids. For comparing."""

    def __init__(self) -> None:
        self._last = ReplicaId("")

    def judge(self, request: RequestProfile, candidates: Candidates, rng: Random) -> Judgement:
        del request, rng
        ids = [replica.id for replica in candidates]
        following = min((name for name in ids if name > self._last), default=min(ids))
        return _only("round_robin", [float(name == following) for name in ids])

    def picked(self, replica: ReplicaId) -> None:
        self._last = replica


class Session(_Stateless):
    """`session`: a session's own replica; requests without a session go where least waits. For
    engines whose caches nobody sees and clients that name their sessions."""

    def judge(self, request: RequestProfile, candidates: Candidates, rng: Random) -> Judgement:
        if request.session is None:
            return LeastTokens().judge(request, candidates, rng)
        return _only("session", score_affinity(request, candidates))


def _load(replica: ReplicaSnapshot) -> float:
    """Tokens the next step could compute: the prompts that wait, and one of each request."""
    return replica.waiting_tokens + replica.in_flight


def _only(name: str, totals: Scores) -> Judgement:
    return Judgement(totals, {name: totals})
