"""What a request holds is given back however it ends; it waits its turn, but not forever."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.core.types import NOBODY, ModelId, ReplicaEndpoint, ReplicaId, TenantId
from serving.errors import Overloaded
from serving.gateway.fleet import Fleet, Ticket
from serving.gateway.pool_settings import PoolSettings, QueueLimits
from serving.gateway.replica_states import ReplicaState
from serving.protocol.state_frames import CacheLayout, LoadReport
from serving.routing.policies import LeastTokens, Policy, RoundRobin
from serving.routing.snapshots import RequestProfile

# Machines under load stall at random; that is no property of the code under test.
patient = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])

MODEL = ModelId("demo")
OTHER = ModelId("other")
LOUD, QUIET = TenantId("loud"), TenantId("quiet")
ANY = RequestProfile(10, 10)
A, B, C = (
    ReplicaEndpoint(
        ReplicaId(name), f"http://{name}", metrics_url="", node_id="n", pid=1, version="v"
    )
    for name in "abc"
)
LAYOUT = CacheLayout(block_size=16, total_blocks=100)
NEVER_S = 3600.0
NO_LIMIT = 10**6


class Told(dict[ReplicaId, ReplicaState]):
    """What replicas have told, and which of them have fallen silent."""

    def __init__(self, states: dict[ReplicaId, ReplicaState] | None = None) -> None:
        super().__init__(states or {})
        self.silent: dict[ReplicaId, float] = {}

    def state(self, replica: ReplicaId) -> ReplicaState | None:
        return self.get(replica)

    def silent_s(self, replica: ReplicaId) -> float:
        return self.silent.get(replica, 0.0)


def make_fleet(
    *replicas: ReplicaEndpoint, room: int = NO_LIMIT, told: Told | None = None, **limits: Any
) -> Fleet:
    """A fleet of one model whose replicas take `room` requests each; waiting has no end."""
    patience = {"max_queued": 100, "queue_timeout_s": NEVER_S, "no_replica_wait_s": NEVER_S}
    fleet = Fleet(
        {
            model: PoolSettings(
                room,
                LeastTokens(),
                0.0,
                Told() if told is None else told,
                QueueLimits(**{**patience, **limits}),
            )
            for model in (MODEL, OTHER)
        },
        rng=Random(0),
        now=time.monotonic,
    )
    fleet.update(MODEL, replicas)
    return fleet


def ignore(*_told: Any) -> None:
    """Nobody wants to know."""


def counting_wanted(fleet: Fleet) -> list[ModelId]:
    """One entry for each request that counts as wanted, from now on."""
    wanted: list[ModelId] = []
    fleet.tell(on_sent=ignore, on_missing=ignore, on_wanted=wanted.append)
    return wanted


def take(fleet: Fleet, tenant: TenantId = NOBODY) -> Ticket:
    """A request that holds a replica."""
    ticket = fleet.ticket(MODEL, ANY, tenant=tenant)
    assert ticket.take() is not None
    return ticket


async def queue(
    fleet: Fleet, *, wait: bool = True, tenant: TenantId = NOBODY
) -> tuple[Ticket, asyncio.Task[ReplicaEndpoint]]:
    """A request that waits."""
    ticket = fleet.ticket(MODEL, ANY, tenant=tenant)
    waiting = asyncio.create_task(ticket.wait())
    await asyncio.sleep(0)
    assert waiting.done() is not wait
    return ticket, waiting


async def refusal(fleet: Fleet, ticket: Ticket | None = None) -> Overloaded:
    with ticket or fleet.ticket(MODEL, ANY) as held:
        assert held.take() is None
        with pytest.raises(Overloaded) as caught:
            await held.wait()
    return caught.value


def test_requests_spread_over_replicas() -> None:
    fleet = make_fleet(A, B)
    assert Counter(take(fleet).held for _ in range(10)) == {A: 5, B: 5}
    assert fleet.num_in_flight(MODEL) == 10
    assert fleet.num_in_flight(OTHER) == 0


@patient
@given(st.lists(st.booleans(), max_size=40))
def test_room_is_never_oversold_and_never_lost(steps: list[bool]) -> None:
    """However requests come and go, replicas hold what is asked up to their room, evenly."""

    async def play() -> None:
        fleet = make_fleet(A, B, C, room=2)
        held: list[Ticket] = []
        for is_new in steps:
            if is_new or not held:
                ticket = fleet.ticket(MODEL, ANY)
                assert (ticket.take() is None) == (len(held) == 6)
                held += [ticket] if ticket.held else []
            else:
                held.pop(0).__exit__(None, None, None)
            counts = Counter(ticket.held for ticket in held)
            assert max(counts.values(), default=0) <= 2
            assert fleet.num_in_flight(MODEL) == len(held)
        for ticket in held:
            ticket.__exit__(None, None, None)
        assert fleet.num_in_flight(MODEL) == 0

    asyncio.run(play())


async def test_an_exception_gives_back() -> None:
    fleet = make_fleet(A)

    def request() -> None:
        with fleet.ticket(MODEL, ANY) as ticket:
            ticket.take()
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        request()
    assert fleet.num_in_flight(MODEL) == 0


async def test_a_cancellation_gives_back() -> None:
    fleet = make_fleet(A)
    held = asyncio.Event()

    async def request() -> None:
        with fleet.ticket(MODEL, ANY) as ticket:
            ticket.take()
            held.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(request())
    await held.wait()
    task.cancel()
    await asyncio.wait({task})
    assert fleet.num_in_flight(MODEL) == 0


async def test_a_request_outlives_its_replica() -> None:
    fleet = make_fleet(A)
    with fleet.ticket(MODEL, ANY) as ticket:
        ticket.take()
        fleet.update(MODEL, [B])
        assert take(fleet).held == B
    assert fleet.num_in_flight(MODEL) == 1


async def test_a_request_waits_for_a_replica() -> None:
    fleet = make_fleet()
    waiting = [await queue(fleet) for _ in range(3)]
    fleet.update(OTHER, [B])
    await asyncio.sleep(0)
    assert not any(task.done() for _, task in waiting)
    fleet.update(MODEL, [C])
    assert await asyncio.gather(*(task for _, task in waiting)) == [C, C, C]


async def test_waiting_requests_are_served_in_order() -> None:
    fleet = make_fleet(A, room=1)
    running = take(fleet)
    first, second = [await queue(fleet) for _ in range(2)]
    assert fleet.num_queued(MODEL) == 2

    running.__exit__(None, None, None)
    assert await first[1] == A
    assert not second[1].done()
    assert fleet.ticket(MODEL, ANY).take() is None, "a newcomer does not overtake"

    first[0].__exit__(None, None, None)
    assert await second[1] == A
    assert fleet.num_queued(MODEL) == 0


async def test_tenants_take_turns_however_many_requests_wait_for_one() -> None:
    fleet = make_fleet(A, room=2)
    running = [take(fleet, LOUD) for _ in range(2)]
    loud = [await queue(fleet, tenant=LOUD) for _ in range(3)]
    quiet, arrival = await queue(fleet, tenant=QUIET)

    running[0].__exit__(None, None, None)
    assert await arrival == A
    quiet.__exit__(None, None, None)
    assert await loud[0][1] == A
    assert not loud[1][1].done()


async def test_a_full_queue_makes_room_for_a_tenant_with_fewer_requests() -> None:
    fleet = make_fleet(A, room=1, max_queued=2)
    take(fleet, LOUD)
    kept, displaced = [(await queue(fleet, tenant=LOUD))[1] for _ in range(2)]
    quiet = (await queue(fleet, tenant=QUIET))[1]
    with pytest.raises(Overloaded) as caught:
        await displaced
    assert (caught.value.code, caught.value.retry_after_s) == ("engine_overloaded", 60.0)
    assert not kept.done()
    assert not quiet.done()
    assert fleet.num_queued(MODEL) == 2


async def test_a_request_that_would_be_late_lets_newer_ones_go_first() -> None:
    clock = [0.0]
    limits = QueueLimits(9, NEVER_S, NEVER_S, fresh_s=1.0)
    fleet = Fleet(
        {MODEL: PoolSettings(1, LeastTokens(), 0.0, Told(), limits)},
        rng=Random(0),
        now=lambda: clock[0],
    )
    fleet.update(MODEL, [A])
    running = take(fleet)
    late = (await queue(fleet))[1]
    clock[0] = 2.0
    newer, arrival = await queue(fleet)
    running.__exit__(None, None, None)
    assert await arrival == A
    assert not late.done()
    newer.__exit__(None, None, None)
    assert await late == A


async def test_a_request_given_up_while_it_waits_leaves_no_trace() -> None:
    fleet = make_fleet(A, room=1)
    with take(fleet):
        with fleet.ticket(MODEL, ANY) as ticket:
            waiting = asyncio.create_task(ticket.wait())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait({waiting})
        assert fleet.num_queued(MODEL) == 0
    assert fleet.num_in_flight(MODEL) == 0


async def test_a_request_given_up_as_it_is_served_gives_back() -> None:
    fleet = make_fleet(A, room=1)
    running = take(fleet)
    with fleet.ticket(MODEL, ANY) as ticket:
        waiting = asyncio.create_task(ticket.wait())
        await asyncio.sleep(0)
        running.__exit__(None, None, None)
        waiting.cancel()
        await asyncio.wait({waiting})
    assert fleet.num_in_flight(MODEL) == 0


async def test_a_failed_replica_is_not_tried_again() -> None:
    fleet = make_fleet(A, B)
    with fleet.ticket(MODEL, ANY) as ticket:
        first = ticket.take()
        ticket.give_back(is_full=False)
        assert ticket.take() in {A, B} - {first}
        ticket.give_back(is_full=False)
        waiting = asyncio.create_task(ticket.wait())
        await asyncio.sleep(0)
        fleet.update(MODEL, [A, B, C])
        assert await waiting == C


async def test_a_full_replica_is_tried_again_soon() -> None:
    """Its room may be held by another gateway, whose releases are not seen here."""
    fleet = make_fleet(A)
    with fleet.ticket(MODEL, ANY) as ticket:
        ticket.take()
        ticket.give_back(is_full=True)
        assert ticket.take() is None
        newcomer = (await queue(fleet))[1]
        assert await ticket.wait() == A
        assert await newcomer == A


async def test_who_comes_back_keeps_its_place() -> None:
    fleet = make_fleet(A, room=1)
    first = take(fleet)
    _, second = await queue(fleet)
    first.give_back(is_full=True)
    third = asyncio.create_task(first.wait())
    await asyncio.wait({second, third}, return_when=asyncio.FIRST_COMPLETED)
    assert third.done()
    assert not second.done()
    second.cancel()


async def test_one_request_without_a_replica_does_not_hold_up_others() -> None:
    fleet = make_fleet(A, room=1)
    unlucky = take(fleet)
    unlucky.give_back(is_full=False)
    stuck = asyncio.create_task(unlucky.wait())
    await asyncio.sleep(0)
    _, served = await queue(fleet, wait=False)
    assert await served == A
    stuck.cancel()


@pytest.mark.parametrize("wait_s", [0.0, 0.01])
async def test_waiting_for_a_replica_has_an_end(wait_s: float) -> None:
    error = await refusal(make_fleet(no_replica_wait_s=wait_s))
    assert (error.code, error.param, error.retryable) == ("model_not_ready", "model", True)
    assert error.retry_after_s is not None
    assert error.retry_after_s >= 1


@pytest.mark.parametrize("limits", [{"queue_timeout_s": 0.01}, {"max_queued": 0}])
async def test_waiting_for_room_has_an_end(limits: dict[str, Any]) -> None:
    fleet = make_fleet(A, room=1, **limits)
    running = take(fleet)
    error = await refusal(fleet)
    assert (error.code, error.retryable) == ("engine_overloaded", True)
    assert fleet.num_queued(MODEL) == 0
    running.__exit__(None, None, None)
    assert take(fleet).held == A


async def test_retry_after_follows_what_is_finished() -> None:
    fleet = make_fleet(A, room=1, max_queued=0)
    for _ in range(300):
        take(fleet).__exit__(None, None, None)
    with take(fleet):
        error = await refusal(fleet)
    assert error.retry_after_s == 1


async def test_models_do_not_share_replicas() -> None:
    fleet = make_fleet(A, B)
    assert fleet.endpoints(MODEL) == (A, B)
    assert fleet.endpoints(OTHER) == ()
    assert fleet.ticket(OTHER, ANY).take() is None


# --- choosing ------------------------------------------------------------------------------------


def fleet_at(
    clock: list[float],
    *replicas: ReplicaEndpoint,
    policy: Policy,
    told_by: Told,
    no_replica_wait_s: float = NEVER_S,
) -> Fleet:
    """A fleet whose clock reads `clock[0]` seconds."""
    fleet = Fleet(
        {
            MODEL: PoolSettings(
                NO_LIMIT, policy, 10.0, told_by, QueueLimits(9, NEVER_S, no_replica_wait_s)
            )
        },
        rng=Random(0),
        now=lambda: clock[0],
    )
    fleet.update(MODEL, replicas)
    return fleet


def held_by(fleet: Fleet, tokens: int = 10) -> tuple[Ticket, ReplicaId]:
    ticket = fleet.ticket(MODEL, RequestProfile(tokens, 10))
    endpoint = ticket.take()
    assert endpoint is not None
    return ticket, endpoint.id


def test_the_model_s_policy_chooses() -> None:
    fleet = fleet_at([0.0], A, B, C, policy=RoundRobin(), told_by=Told())
    assert [held_by(fleet)[1] for _ in range(4)] == [A.id, B.id, C.id, A.id]


def test_prompts_that_wait_count_until_they_are_answered() -> None:
    fleet = fleet_at([0.0], A, B, policy=LeastTokens(), told_by=Told())
    long, first = held_by(fleet, tokens=5000)
    others = [held_by(fleet) for _ in range(3)]
    assert {replica for _, replica in others} == {A.id, B.id} - {first}
    long.answered()
    long.answered()
    assert held_by(fleet)[1] == first
    for ticket in (long, *(ticket for ticket, _ in others)):
        ticket.__exit__(None, None, None)
    assert fleet.num_in_flight(MODEL) == 1


def test_a_new_replica_is_not_flooded() -> None:
    clock = [0.0]
    fleet = fleet_at(clock, A, B, policy=LeastTokens(), told_by=Told())
    for _ in range(20):
        held_by(fleet)
    clock[0] = 100.0
    fleet.update(MODEL, (A, B, C))
    assert Counter(held_by(fleet)[1] for _ in range(6))[C.id] == 1
    clock[0] = 105.0
    assert 1 < Counter(held_by(fleet)[1] for _ in range(12))[C.id] < 12
    clock[0] = 111.0
    assert {held_by(fleet)[1] for _ in range(3)} == {C.id}


def test_a_new_replica_takes_what_no_other_can() -> None:
    fleet = fleet_at([0.0], A, policy=LeastTokens(), told_by=Told())
    fleet.update(MODEL, (A, C))
    for _ in range(3):
        held_by(fleet)
    ticket = fleet.ticket(MODEL, ANY)
    ticket.excluded.add(A.id)
    assert ticket.take() == C


# --- what replicas tell --------------------------------------------------------------------------


def told(*, tokens: int = 0, in_flight: int = 0, draining: bool = False, at: float = 0.0) -> Any:
    report = LoadReport(in_flight, 0, tokens, 1000.0, 0, in_flight, draining)
    return ReplicaState(report, LAYOUT, heard_at=at)


def test_other_gateways_requests_count() -> None:
    states = Told({A.id: told(tokens=9000, in_flight=30), B.id: told(tokens=100, in_flight=2)})
    fleet = fleet_at([0.0], A, B, policy=LeastTokens(), told_by=states)
    assert {held_by(fleet)[1] for _ in range(5)} == {B.id}


def test_what_was_sent_since_a_report_is_added_to_it() -> None:
    states = Told({A.id: told(), B.id: told(tokens=1000)})
    fleet = fleet_at([0.0], A, B, policy=LeastTokens(), told_by=states)
    assert held_by(fleet, tokens=1500)[1] == A.id
    assert held_by(fleet, tokens=10)[1] == B.id
    fleet.heard(MODEL, A.id)  # its report still says that nothing waits: it has been computed
    assert held_by(fleet, tokens=10)[1] == A.id


def test_a_replica_that_others_have_filled_is_full() -> None:
    states = Told({A.id: told(in_flight=NO_LIMIT), B.id: told(tokens=10**6)})
    fleet = fleet_at([0.0], A, B, policy=LeastTokens(), told_by=states)
    assert held_by(fleet)[1] == B.id


def test_a_draining_replica_gets_nothing() -> None:
    states = Told({A.id: told(draining=True), B.id: told(tokens=10**6)})
    fleet = fleet_at([0.0], A, B, policy=LeastTokens(), told_by=states)
    assert held_by(fleet)[1] == B.id


async def test_a_report_lets_the_queue_move() -> None:
    states = Told({A.id: told(in_flight=NO_LIMIT)})
    fleet = fleet_at([0.0], A, policy=LeastTokens(), told_by=states)
    ticket = fleet.ticket(MODEL, ANY)
    waiting = asyncio.create_task(ticket.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    states[A.id] = told()
    fleet.heard(MODEL, A.id)
    assert await waiting == A


@pytest.mark.parametrize(("held", "has_too_much"), [(4, True), (2, False)])
async def test_a_gateway_with_too_much_of_a_full_replica_lets_others_have_its_room(
    *, held: int, has_too_much: bool
) -> None:
    full, has_room = (
        msgspec.structs.replace(told(in_flight=number).report, num_gateways=2) for number in (4, 3)
    )
    states = Told()
    fleet = make_fleet(A, room=4, told=states)
    running = [take(fleet) for _ in range(held)]
    states[A.id] = ReplicaState(full, LAYOUT, heard_at=time.monotonic())
    fleet.heard(MODEL, A.id)
    waiting = (await queue(fleet))[1]

    running[0].__exit__(None, None, None)
    states[A.id] = ReplicaState(has_room, LAYOUT, heard_at=time.monotonic())
    fleet.heard(MODEL, A.id)
    await asyncio.sleep(0)
    assert waiting.done() is not has_too_much
    assert await waiting == A, "nobody else came"


async def test_an_old_report_takes_no_room_from_a_gateway() -> None:
    full = msgspec.structs.replace(told(in_flight=4).report, num_gateways=2)
    states = Told({A.id: ReplicaState(full, LAYOUT, heard_at=time.monotonic() - 60)})
    fleet = make_fleet(A, room=4, told=states)
    running = [take(fleet) for _ in range(4)]
    waiting = (await queue(fleet))[1]
    running[0].__exit__(None, None, None)
    await settled()
    assert waiting.done()


def test_an_old_report_does_not_keep_a_replica_full() -> None:
    clock = [0.0]
    states = Told({A.id: told(in_flight=NO_LIMIT)})
    fleet = fleet_at(clock, A, policy=LeastTokens(), told_by=states)
    assert fleet.ticket(MODEL, ANY).take() is None
    clock[0] = 10.0
    assert held_by(fleet)[1] == A.id


# --- streams that lose their replica -------------------------------------------------------------


async def test_a_stream_waits_for_another_replica_however_long_it_has_run() -> None:
    """Before newer requests, and where the queue takes no more of those."""
    clock = [0.0]
    fleet = Fleet(
        {MODEL: PoolSettings(1, LeastTokens(), 0.0, Told(), QueueLimits(0, 30.0, 0.0))},
        rng=Random(0),
        now=lambda: clock[0],
    )
    fleet.update(MODEL, [A, B])
    stream, other = take(fleet), take(fleet)
    lost = stream.held
    clock[0] = 3600.0
    stream.lose()
    waiting = asyncio.create_task(stream.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    with other:
        pass
    assert await waiting not in (None, lost)


# --- machines that are about to go ---------------------------------------------------------------


def test_a_machine_that_goes_gets_nothing_new() -> None:
    fleet = make_fleet(A, B)
    before = [take(fleet) for _ in range(4)]
    fleet.avoid_hosts({"a": "its node is cordoned"})
    assert {held_by(fleet)[1] for _ in range(8)} == {B.id}
    assert Counter(ticket.held for ticket in before) == {A: 2, B: 2}
    assert fleet.problems() == ["replica a gets no new requests: its node is cordoned"]
    fleet.avoid_hosts({})
    assert held_by(fleet)[1] == A.id
    assert fleet.problems() == []


def test_a_machine_that_goes_is_better_than_none() -> None:
    """Or than one that is full."""
    fleet = make_fleet(A, B, room=1)
    fleet.avoid_hosts({"a": "its node is cordoned"})
    assert [take(fleet).held for _ in range(2)] == [B, A]
    alone = make_fleet(A)
    alone.avoid_hosts({"a": "its node is cordoned"})
    assert take(alone).held == A


# --- replicas that fall silent -------------------------------------------------------------------


def test_a_silent_replica_is_the_last_choice() -> None:
    states = Told()
    fleet = fleet_at([0.0], A, B, policy=LeastTokens(), told_by=states)
    states.silent = {A.id: 3.0}
    assert {held_by(fleet)[1] for _ in range(8)} == {B.id}
    failed = fleet.ticket(MODEL, ANY)
    failed.excluded.add(B.id)
    assert failed.take() == A
    states.silent = {}
    assert {held_by(fleet)[1] for _ in range(6)} == {A.id}


def test_a_new_replica_is_better_than_a_silent_one() -> None:
    states = Told()
    fleet = fleet_at([0.0], A, policy=LeastTokens(), told_by=states)
    fleet.update(MODEL, (A, C))
    states.silent = {A.id: 14.0}
    assert {held_by(fleet)[1] for _ in range(8)} == {C.id}


async def test_a_lost_replica_is_none() -> None:
    states = Told()
    states.silent = {A.id: 15.0}
    clock = [0.0]
    fleet = fleet_at(clock, A, policy=LeastTokens(), told_by=states, no_replica_wait_s=0.0)
    with pytest.raises(Overloaded) as refused:
        await fleet.ticket(MODEL, ANY).wait()
    assert refused.value.code == "model_not_ready"
    ticket = fleet.ticket(MODEL, ANY)
    assert ticket.take() is None
    states.silent = {}
    assert ticket.take() == A


async def test_who_waits_gets_the_replica_that_is_heard_again() -> None:
    states = Told()
    states.silent = {A.id: 15.0}
    fleet = fleet_at([0.0], A, policy=LeastTokens(), told_by=states)
    waiting = asyncio.create_task(fleet.ticket(MODEL, ANY).wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    states.silent = {}
    fleet.heard(MODEL, A.id)
    assert await waiting == A


# --- replicas that fail --------------------------------------------------------------------------


def fail(fleet: Fleet, replica: ReplicaId) -> None:
    """A request fails on that replica."""
    ticket = fleet.ticket(MODEL, ANY)
    ticket.excluded |= {other for other in (A.id, B.id, C.id) if other != replica}
    with ticket:
        assert ticket.take() is not None
        ticket.fail()
        ticket.give_back(is_full=False)


def test_a_failing_replica_is_left_alone_and_then_probed() -> None:
    clock = [0.0]
    fleet = fleet_at(clock, A, B, policy=LeastTokens(), told_by=Told())
    for _ in range(3):
        fail(fleet, A.id)
    assert {held_by(fleet)[1] for _ in range(8)} == {B.id}
    clock[0] = 1.0
    probe = fleet.ticket(MODEL, ANY)
    assert probe.take() == A, "it has the least to do"
    assert {held_by(fleet)[1] for _ in range(8)} == {B.id}, "one probe is enough"
    probe.answered()
    assert A.id in {held_by(fleet)[1] for _ in range(8)}


def test_a_failing_replica_is_better_than_none() -> None:
    fleet = fleet_at([0.0], A, policy=LeastTokens(), told_by=Told())
    for _ in range(5):
        fail(fleet, A.id)
    assert fleet.ticket(MODEL, ANY).take() == A


# --- clients that say how long they wait ---------------------------------------------------------


async def test_a_request_is_refused_before_its_client_gives_up() -> None:
    clock = [0.0]
    fleet = fleet_at(clock, A, policy=LeastTokens(), told_by=Told())
    ticket = fleet.ticket(MODEL, ANY, patience_s=0.01)
    assert not ticket.is_late
    ticket.excluded.add(A.id)
    with pytest.raises(Overloaded):
        await ticket.wait()
    clock[0] = 0.0099
    assert ticket.is_late


async def test_a_replica_that_leaves_is_remembered_until_it_is_gone() -> None:
    """What its last requests take is counted when they end, and must be scraped."""
    fleet = make_fleet(A, B)
    fleet.update(MODEL, [B])
    assert fleet.leaving(MODEL) == (A,)
    fleet.update(MODEL, [B, C])
    fleet.update(MODEL, [C])
    assert fleet.leaving(MODEL) == (A, B)
    fleet.has_left(MODEL, A.id)
    fleet.has_left(MODEL, A.id)
    assert fleet.leaving(MODEL) == (B,)
    assert fleet.leaving(OTHER) == ()


async def test_a_gateway_that_nobody_asks_forgets_the_oldest() -> None:
    fleet = make_fleet()
    for number in range(200):
        name = ReplicaId(f"r{number}")
        fleet.update(MODEL, [ReplicaEndpoint(name, "http://x", "", "n", 1, "v")])
    leaving = fleet.leaving(MODEL)
    assert len(leaving) == 64
    assert leaving[-1].id == "r198"


async def settled() -> None:
    """What was woken has run."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_what_waits_for_a_replica_waits_for_room_once_there_is_one() -> None:
    """Which may take as long as if it had come only then."""
    fleet = make_fleet(room=1, no_replica_wait_s=0.02, queue_timeout_s=NEVER_S)
    waiting = [await queue(fleet) for _ in range(2)]
    fleet.update(MODEL, [A])
    await asyncio.sleep(0.05)
    assert [arrival.done() for _, arrival in waiting] == [True, False]
    assert fleet.num_queued(MODEL) == 1
    waiting[1][1].cancel()


async def test_a_wait_for_room_ends_as_set_though_a_replica_might_have_taken_longer() -> None:
    fleet = make_fleet(room=1, no_replica_wait_s=NEVER_S, queue_timeout_s=0.01)
    waiting = [await queue(fleet) for _ in range(2)]
    fleet.update(MODEL, [A])
    with pytest.raises(Overloaded) as refused:
        await waiting[1][1]
    assert refused.value.code == "engine_overloaded"


async def test_the_last_replica_s_leaving_is_told_and_bounds_the_wait() -> None:
    missing: list[ModelId] = []
    fleet = make_fleet(A, room=1, no_replica_wait_s=0.01, queue_timeout_s=NEVER_S)
    fleet.tell(on_sent=ignore, on_missing=missing.append, on_wanted=ignore)
    take(fleet)
    waiting = (await queue(fleet))[1]
    fleet.update(MODEL, [])
    assert missing == [MODEL]
    with pytest.raises(Overloaded) as refused:
        await waiting
    assert refused.value.code == "model_not_ready"


async def test_nobody_is_told_to_stay_away_for_longer_than_a_minute() -> None:
    fleet = make_fleet(no_replica_wait_s=300.0)
    waiting = (await queue(fleet))[1]
    ticket = fleet.ticket(MODEL, ANY, patience_s=0.01)
    assert (await refusal(fleet, ticket)).retry_after_s == 60
    waiting.cancel()


async def test_a_request_that_nothing_suits_does_not_fill_a_small_queue() -> None:
    fleet = make_fleet(A, B, room=1, max_queued=0)
    unlucky = take(fleet)
    other = take(fleet)
    assert unlucky.held is not None
    unlucky.has_begun = True
    unlucky.give_back(is_full=False)
    stuck = asyncio.create_task(unlucky.wait())
    await settled()
    _, served = await queue(fleet, wait=False)
    assert await served != other.held
    stuck.cancel()


async def test_a_request_sent_back_has_a_place_in_a_full_queue() -> None:
    fleet = make_fleet(A, B, room=1, max_queued=1)
    oldest, other = take(fleet), take(fleet)
    second = other.held
    later = (await queue(fleet))[1]
    oldest.give_back(is_full=False)
    assert await later != second
    newest = (await queue(fleet))[1]
    back = asyncio.create_task(oldest.wait())
    await settled()
    assert not back.done()
    other.__exit__(None, None, None)
    assert await back == second
    assert not newest.done()
    newest.cancel()


async def test_a_replica_that_dies_under_a_crowd_costs_each_event_little() -> None:
    """Those that it has failed are passed over together while no other replica has room."""
    decided = 0

    class Counting(LeastTokens):
        def judge(self, *asked: Any) -> Any:
            nonlocal decided
            decided += 1
            return super().judge(*asked)

    limits = QueueLimits(9999, NEVER_S, NEVER_S)
    fleet = Fleet(
        {MODEL: PoolSettings(50, Counting(), 0.0, Told(), limits)},
        rng=Random(0),
        now=time.monotonic,
    )
    fleet.update(MODEL, [A, B])
    tickets = [take(fleet) for _ in range(100)]
    lost = [ticket for ticket in tickets if ticket.held == A]
    fleet.update(MODEL, [B])
    decided = 0
    for ticket in lost:
        ticket.give_back(is_full=False)
    back = [asyncio.create_task(ticket.wait()) for ticket in lost]
    await settled()
    for _ in range(20):
        fleet.heard(MODEL, B.id)
    assert (fleet.num_queued(MODEL), decided) == (50, 0)
    for task in back:
        task.cancel()


async def test_room_that_comes_with_silence_is_noticed() -> None:
    """A report of a full replica is void after three seconds, and nothing else happens then."""
    clock = [0.0]
    states = Told({A.id: told(in_flight=1)})
    limits = QueueLimits(9, NEVER_S, NEVER_S)
    fleet = Fleet(
        {MODEL: PoolSettings(1, LeastTokens(), 0.0, states, limits)},
        rng=Random(0),
        now=lambda: clock[0],
    )
    fleet.update(MODEL, [A])
    waiting = (await queue(fleet))[1]
    clock[0] = 4.0
    assert await asyncio.wait_for(waiting, 10) == A


async def test_a_request_for_a_model_without_replicas_is_told() -> None:
    missing: list[ModelId] = []
    fleet = make_fleet(no_replica_wait_s=0.0)
    fleet.tell(on_sent=ignore, on_missing=missing.append, on_wanted=ignore)
    with fleet.ticket(MODEL, ANY) as ticket:
        assert ticket.take() is None
        with pytest.raises(Overloaded):
            await ticket.wait()
    assert missing == [MODEL]


async def test_a_prompt_counts_once_however_often_it_is_sent_back() -> None:
    sent: list[tuple[ModelId, int, int]] = []
    fleet = make_fleet(A, B)
    fleet.tell(on_sent=lambda *told: sent.append(told), on_missing=ignore, on_wanted=ignore)
    request = RequestProfile(10, 10, hit_tokens={A.id: 4, B.id: 4})
    with fleet.ticket(MODEL, request) as ticket:
        for _ in range(2):
            assert ticket.take() is not None
            ticket.give_back(is_full=False)
    assert sent == [(MODEL, 10, 4)]


async def test_a_request_is_wanted_once_whether_it_is_sent_or_refused() -> None:
    fleet = make_fleet(A, room=1, queue_timeout_s=0.01)
    wanted = counting_wanted(fleet)
    take(fleet)
    assert wanted == [MODEL]
    assert (await refusal(fleet)).code == "engine_overloaded"
    assert wanted == [MODEL] * 2


async def test_a_request_that_its_client_repeats_is_not_wanted_once_more() -> None:
    fleet = make_fleet(A, B, room=1, queue_timeout_s=0.01)
    wanted = counting_wanted(fleet)
    fleet.ticket(MODEL, ANY, is_repeat=True).take()
    take(fleet)
    await refusal(fleet, fleet.ticket(MODEL, ANY, is_repeat=True))
    assert wanted == [MODEL]


async def test_a_request_that_a_replica_sends_back_is_wanted_once_though_it_is_refused() -> None:
    fleet = make_fleet(A, room=1, queue_timeout_s=0.01)
    wanted = counting_wanted(fleet)
    with take(fleet) as ticket:
        ticket.give_back(is_full=True)  # and the replica is left alone for longer than that
        with pytest.raises(Overloaded):
            await ticket.wait()
    assert wanted == [MODEL]


async def test_whoever_gives_up_before_the_platform_does_was_not_refused_by_it() -> None:
    fleet = make_fleet(A, room=1)
    wanted = counting_wanted(fleet)
    take(fleet)
    impatient = fleet.ticket(MODEL, ANY, patience_s=0.001)
    assert (await refusal(fleet, impatient)).code == "engine_overloaded"
    assert wanted == [MODEL]


async def test_whoever_a_full_queue_turns_away_was_wanted() -> None:
    fleet = make_fleet(A, room=1, max_queued=0)
    wanted = counting_wanted(fleet)
    take(fleet)
    await refusal(fleet)
    assert wanted == [MODEL] * 2


async def test_a_request_without_a_replica_to_wait_for_is_not_wanted() -> None:
    """It wakes the model in another way."""
    fleet = make_fleet(no_replica_wait_s=0.0)
    wanted = counting_wanted(fleet)
    assert (await refusal(fleet)).code == "model_not_ready"
    assert wanted == []


async def test_what_waits_and_who_is_heard_is_known() -> None:
    told = Told()
    fleet = Fleet(
        {MODEL: PoolSettings(0, LeastTokens(), 0.0, told, QueueLimits(9, NEVER_S, NEVER_S))},
        rng=Random(0),
        now=time.monotonic,
    )
    fleet.update(MODEL, [A, B, C])
    told.silent = {B.id: 5.0, C.id: 60.0}
    assert fleet.num_replicas(MODEL) == {"heard": 1, "silent": 1, "lost": 1}
    with fleet.ticket(MODEL, ANY) as ticket:
        waiting = asyncio.create_task(ticket.wait())
        await asyncio.sleep(0)
        assert fleet.queued_tokens(MODEL) == 10
        assert not fleet.is_missing(MODEL)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert fleet.queued_tokens(MODEL) == 0
