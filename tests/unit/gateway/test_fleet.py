"""Leases are given back however a request ends; a request waits for a replica, but not forever."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.core.types import ModelId, ReplicaEndpoint, ReplicaId
from serving.errors import Overloaded
from serving.gateway.fleet import Fleet

# Machines under load stall at random; that is no property of the code under test.
patient = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])

MODEL = ModelId("demo")
OTHER = ModelId("other")
A, B, C = (ReplicaEndpoint(ReplicaId(name), f"http://{name}", node_id="n", pid=1) for name in "abc")
NEVER_S = 3600.0


@pytest.fixture
async def fleet() -> Fleet:
    fleet = Fleet([MODEL, OTHER], rng=Random(0))
    fleet.update(MODEL, [A, B])
    return fleet


async def choose(fleet: Fleet, *exclude: ReplicaEndpoint, wait_s: float = 0.0) -> ReplicaEndpoint:
    return await fleet.choose(MODEL, exclude={replica.id for replica in exclude}, wait_s=wait_s)


async def is_even(fleet: Fleet) -> bool:
    """Whether A and B look equally busy: both are then chosen sooner or later."""
    return {(await choose(fleet)).id for _ in range(64)} == {A.id, B.id}


async def test_a_lease_counts_while_it_is_open(fleet: Fleet) -> None:
    with fleet.lease(A):
        assert {(await choose(fleet)).id for _ in range(32)} == {B.id}
        with fleet.lease(B):
            assert await is_even(fleet)
            with fleet.lease(B):
                assert {(await choose(fleet)).id for _ in range(32)} == {A.id}
    assert await is_even(fleet)


async def test_a_lease_ends_with_an_exception(fleet: Fleet) -> None:
    with pytest.raises(ValueError, match="broken"), fleet.lease(A):
        raise ValueError("broken")
    assert await is_even(fleet)


async def test_a_lease_ends_with_a_cancellation(fleet: Fleet) -> None:
    held = asyncio.Event()

    async def request() -> None:
        with fleet.lease(A):
            held.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(request())
    await held.wait()
    task.cancel()
    await asyncio.wait({task})

    assert await is_even(fleet)


async def test_a_lease_outlives_its_replica(fleet: Fleet) -> None:
    with fleet.lease(A):
        fleet.update(MODEL, [B])
        assert (await choose(fleet)).id == B.id
    fleet.update(MODEL, [A, B])
    assert await is_even(fleet)


@patient
@given(st.lists(st.tuples(st.sampled_from([A, B, C]), st.booleans()), max_size=30))
def test_requests_spread_by_open_leases(steps: list[tuple[ReplicaEndpoint, bool]]) -> None:
    """However leases come and go, a chosen replica never has more of them than another."""

    async def play() -> None:
        fleet = Fleet([MODEL], rng=Random(1))
        fleet.update(MODEL, [A, B, C])
        open_leases: list[tuple[ReplicaEndpoint, object]] = []
        for replica, is_new in steps:
            if is_new or not open_leases:
                lease = fleet.lease(replica)
                lease.__enter__()
                open_leases.append((replica, lease))
            else:
                open_leases.pop()[1].__exit__(None, None, None)  # type: ignore[attr-defined]
            counts = Counter({A.id: 0, B.id: 0, C.id: 0})
            counts.update(held.id for held, _ in open_leases)
            assert counts[(await choose(fleet)).id] == min(counts.values())
        for _, lease in open_leases:
            lease.__exit__(None, None, None)  # type: ignore[attr-defined]

    asyncio.run(play())


async def test_a_request_waits_for_a_replica(fleet: Fleet) -> None:
    fleet.update(MODEL, [])
    waiting = [asyncio.create_task(choose(fleet, wait_s=NEVER_S)) for _ in range(3)]
    await asyncio.sleep(0)
    fleet.update(OTHER, [B])  # wakes them for nothing
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    fleet.update(MODEL, [C])

    assert await asyncio.gather(*waiting) == [C, C, C]


async def test_an_excluded_replica_is_no_replica(fleet: Fleet) -> None:
    assert await choose(fleet, A) == B
    waiting = asyncio.create_task(choose(fleet, A, B, wait_s=NEVER_S))
    await asyncio.sleep(0)
    fleet.update(MODEL, [A, B, C])

    assert await waiting == C


@pytest.mark.parametrize("wait_s", [0.0, 0.01])
async def test_waiting_has_an_end(fleet: Fleet, wait_s: float) -> None:
    fleet.update(MODEL, [])

    with pytest.raises(Overloaded) as caught:
        await choose(fleet, wait_s=wait_s)

    error = caught.value
    assert (error.code, error.param, error.retryable) == ("model_not_ready", "model", True)
    assert error.retry_after_s is not None
    assert error.retry_after_s >= 1


async def test_no_wait_still_finds_a_replica_that_is_there(fleet: Fleet) -> None:
    assert await choose(fleet, wait_s=0.0) in {A, B}


async def test_a_waiting_request_can_be_given_up(fleet: Fleet) -> None:
    fleet.update(MODEL, [])
    waiting = asyncio.create_task(choose(fleet, wait_s=NEVER_S))
    await asyncio.sleep(0)
    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_models_do_not_share_replicas(fleet: Fleet) -> None:
    assert fleet.endpoints(MODEL) == (A, B)
    assert fleet.endpoints(OTHER) == ()
