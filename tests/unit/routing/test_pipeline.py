"""Choosing: never past an obstacle, always a best one, each of the best sometimes; and why."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.types import ReplicaId
from serving.routing.pipeline import Obstacle, choose, warming_up
from serving.routing.policies import LeastTokens, Policy, PowerOfTwo, RoundRobin, Session, Weighted
from serving.routing.scorers import (
    locality_scorer,
    score_affinity,
    score_kv_headroom,
    score_lora,
    score_prefix_hit,
    score_ttft,
)
from serving.routing.snapshots import ReplicaSnapshot, RequestProfile

SCORERS = {
    "ttft": score_ttft,
    "prefix_hit": score_prefix_hit,
    "kv_headroom": score_kv_headroom,
    "lora": score_lora,
    "affinity": score_affinity,
    "locality": locality_scorer("n1"),
}
KV_AWARE = Weighted([(name, scorer, 1.0) for name, scorer in SCORERS.items()])
POLICIES: list[Policy] = [KV_AWARE, LeastTokens(), PowerOfTwo(), RoundRobin(), Session()]
ANY = RequestProfile(100, 10)
NAMES = [ReplicaId(f"r{number}") for number in range(8)]


@st.composite
def snapshots(draw: st.DrawFn) -> list[ReplicaSnapshot]:
    total = draw(st.integers(0, 10**6))
    return [
        ReplicaSnapshot(
            name,
            in_flight=draw(st.integers(0, 500)),
            waiting_tokens=draw(st.integers(0, 10**7)),
            prefill_tokens_per_s=draw(st.floats(1.0, 1e6)),
            free_kv_tokens=draw(st.integers(0, total)),
            total_kv_tokens=total,
            adapters=draw(st.sampled_from([frozenset(), frozenset({"sql"})])),
            node_id=draw(st.sampled_from(["n1", "n2"])),
            report_age_s=draw(st.floats(0, float("inf"))),
        )
        for name in NAMES[: draw(st.integers(1, len(NAMES)))]
    ]


requests = st.builds(
    RequestProfile,
    prompt_tokens=st.integers(1, 10**6),
    expected_output_tokens=st.integers(0, 10**5),
    hit_tokens=st.dictionaries(st.sampled_from(NAMES), st.integers(1, 10**6)),
    lora_name=st.sampled_from([None, "sql"]),
    session=st.sampled_from([None, "s1", "s2"]),
)
obstacles = st.lists(st.none() | st.sampled_from(Obstacle), min_size=8, max_size=8)


@given(requests, snapshots())
def test_every_score_is_a_ratio(request: RequestProfile, replicas: list[ReplicaSnapshot]) -> None:
    for scorer in SCORERS.values():
        scores = scorer(request, replicas)
        assert len(scores) == len(replicas)
        assert all(0.0 <= score <= 1.0 for score in scores)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
@given(request=requests, replicas=snapshots(), obstacles=obstacles, seed=st.integers(0, 99))
def test_the_pick_is_free_and_best(
    policy: Policy,
    request: RequestProfile,
    replicas: list[ReplicaSnapshot],
    obstacles: list[Obstacle | None],
    seed: int,
) -> None:
    offered = list(zip(replicas, obstacles, strict=False))
    decision = choose(request, offered, policy, Random(seed))
    free = [row for row in decision.considered if row.obstacle is None]

    assert [row.replica for row in decision.considered] == [replica.id for replica in replicas]
    assert len(free) == sum(obstacle is None for _, obstacle in offered)
    if not free:
        assert decision.replica is None
        return
    picked = next(row for row in free if row.replica == decision.replica)
    assert picked.score >= max(row.score for row in free) - 1e-6
    assert sum(picked.scores.values()) == pytest.approx(picked.score)
    assert decision == choose(request, offered, policy, Random(seed))


def test_ties_are_broken_evenly() -> None:
    loads = [1, 1, 1, 2]
    replicas = [
        (ReplicaSnapshot(n, in_flight=load), None) for n, load in zip(NAMES, loads, strict=False)
    ]
    rng = Random(0)
    picks = [choose(ANY, replicas, LeastTokens(), rng).replica for _ in range(600)]
    assert all(150 < picks.count(name) < 250 for name in NAMES[:3])


def test_the_reason_is_the_score_that_decided() -> None:
    cached, idle = ReplicaSnapshot(NAMES[0], waiting_tokens=500), ReplicaSnapshot(NAMES[1])
    request = RequestProfile(4000, 10, hit_tokens={NAMES[0]: 3900})
    decision = choose(request, [(cached, None), (idle, None)], KV_AWARE, Random(0))
    assert (decision.replica, decision.reason) == (NAMES[0], "prefix_hit")
    alone = choose(request, [(cached, None), (idle, Obstacle.FULL)], KV_AWARE, Random(0))
    assert alone.reason == "only one"


def test_a_hot_prefix_spreads_once_its_holder_is_saturated() -> None:
    policy = Weighted([("ttft", score_ttft, 1.0), ("prefix_hit", score_prefix_hit, 3.0)])
    request = RequestProfile(8000, 10, hit_tokens={NAMES[0]: 7900})

    def pick(waiting_tokens: int) -> ReplicaId | None:
        holder = ReplicaSnapshot(NAMES[0], waiting_tokens=waiting_tokens)
        others = [ReplicaSnapshot(name) for name in NAMES[1:]]
        offered = [(replica, None) for replica in (holder, *others)]
        return choose(request, offered, policy, Random(0)).replica

    assert pick(20_000) == NAMES[0]
    assert pick(400_000) != NAMES[0]


def test_a_silent_replica_counts_less_but_is_not_shut_out() -> None:
    policy = Weighted([("ttft", score_ttft, 1.0)])
    heard = ReplicaSnapshot(NAMES[0], report_age_s=0.1)
    silent = ReplicaSnapshot(NAMES[1], report_age_s=60)
    assert choose(ANY, [(heard, None), (silent, None)], policy, Random(0)).replica == NAMES[0]
    crowded = ReplicaSnapshot(NAMES[0], report_age_s=0.1, waiting_tokens=10**6)
    assert choose(ANY, [(crowded, None), (silent, None)], policy, Random(0)).replica == NAMES[1]


# --- policies ------------------------------------------------------------------------------------


def test_round_robin_goes_round_whatever_comes_and_goes() -> None:
    policy = RoundRobin()

    def pick(*names: ReplicaId) -> ReplicaId:
        offered = [(ReplicaSnapshot(name), None) for name in names]
        picked = choose(ANY, offered, policy, Random(0)).replica
        assert picked is not None
        policy.picked(picked)
        return picked

    a, b, c = NAMES[:3]
    assert [pick(a, b, c) for _ in range(4)] == [a, b, c, a]
    assert pick(a, c) == c
    assert pick(b, c) == b
    assert pick(a) == a


def test_asking_does_not_take_a_turn() -> None:
    offered = [(ReplicaSnapshot(name), None) for name in NAMES[:3]]
    policy = RoundRobin()
    assert {choose(ANY, offered, policy, Random(0)).replica for _ in range(3)} == {NAMES[0]}


def test_power_of_two_takes_the_less_loaded_of_two() -> None:
    offered = [(ReplicaSnapshot(name, in_flight=n), None) for n, name in enumerate(NAMES)]
    picks = [choose(ANY, offered, PowerOfTwo(), Random(seed)).replica for seed in range(300)]
    assert NAMES[-1] not in picks  # the busiest is never the better of two
    assert len(set(picks)) == len(NAMES) - 1


def test_a_session_stays_and_moves_only_with_its_replica() -> None:
    offered = [(ReplicaSnapshot(name), None) for name in NAMES]
    sessions = [RequestProfile(9, 9, session=f"s{number}") for number in range(200)]
    homes = [choose(request, offered, Session(), Random(0)).replica for request in sessions]
    assert all(10 < homes.count(name) < 45 for name in NAMES)
    gone = homes[0]
    left = [row for row in offered if row[0].id != gone]
    for request, home in zip(sessions, homes, strict=True):
        moved = choose(request, left, Session(), Random(1)).replica
        assert moved == home or home == gone


# --- warm-up -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("in_flight", "known_for_s", "has_enough"),
    [(0, 0.0, False), (1, 0.0, True), (5, 5.0, False), (6, 5.0, True), (99, 10.0, False)],
)
def test_a_new_replica_gets_a_growing_share(
    in_flight: int, known_for_s: float, has_enough: bool
) -> None:
    new = ReplicaSnapshot(NAMES[0], in_flight=in_flight, known_for_s=known_for_s)
    old = [ReplicaSnapshot(name, in_flight=10) for name in NAMES[1:3]]
    assert (NAMES[0] in warming_up([new, *old], warm_up_s=10)) is has_enough


def test_a_fleet_of_new_replicas_is_not_held_back() -> None:
    new = [ReplicaSnapshot(name, in_flight=50, known_for_s=0) for name in NAMES]
    assert warming_up(new, warm_up_s=10) == frozenset()
