"""Choosing: never an excluded replica, always one of the least busy, each of them sometimes."""

from __future__ import annotations

from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.core.types import ReplicaEndpoint, ReplicaId, ReplicaSnapshot
from serving.routing.pipeline import pick_replica

# Machines under load stall at random; that is no property of the code under test.
patient = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])

loads = st.lists(st.integers(0, 5), max_size=8)
seeds = st.integers(0, 2**32)


def snapshots(in_flight: list[int]) -> list[ReplicaSnapshot]:
    return [
        ReplicaSnapshot(
            ReplicaEndpoint(ReplicaId(f"r{n}"), f"http://r{n}", "", "node", n, "v"), load
        )
        for n, load in enumerate(in_flight)
    ]


@patient
@given(in_flight=loads, excluded=st.sets(st.integers(0, 8)), seed=seeds)
def test_the_pick_is_eligible_and_least_busy(
    in_flight: list[int], excluded: set[int], seed: int
) -> None:
    fleet = snapshots(in_flight)
    exclude = {ReplicaId(f"r{n}") for n in excluded}
    eligible = [replica for replica in fleet if replica.endpoint.id not in exclude]

    picked = pick_replica(fleet, exclude=exclude, rng=Random(seed))

    if picked is None:
        assert eligible == []
    else:
        assert picked in eligible
        assert picked.in_flight == min(replica.in_flight for replica in eligible)


@patient
@given(in_flight=loads, seed=seeds)
def test_the_same_randomness_makes_the_same_pick(in_flight: list[int], seed: int) -> None:
    fleet = snapshots(in_flight)
    picks = [pick_replica(fleet, exclude=(), rng=Random(seed)) for _ in range(2)]
    assert picks[0] == picks[1]


def test_ties_are_broken_evenly() -> None:
    fleet = snapshots([1, 1, 1, 2])
    rng = Random(0)
    picks = [pick_replica(fleet, exclude=(), rng=rng) for _ in range(600)]

    for replica in fleet[:3]:
        assert 150 < picks.count(replica) < 250
