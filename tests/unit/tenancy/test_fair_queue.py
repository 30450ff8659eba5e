"""Places go round the tenants, whatever each of them asks for, and none stays empty."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.core.types import TenantId
from serving.tenancy.fair_queue import FairQueue

ANN, BOB, CAT = TENANTS = [TenantId(name) for name in ("ann", "bob", "cat")]
NONE: Counter[TenantId] = Counter()


@dataclass(frozen=True)
class Asked:
    number: int
    tenant: TenantId = ANN
    arrived_at_s: float = 0.0
    has_begun: bool = False


def queue_of(*waiting: Asked, fresh_s: float = math.inf) -> FairQueue[Asked]:
    queue: FairQueue[Asked] = FairQueue(fresh_s=fresh_s)
    for asked in waiting:
        queue.add(asked)
    return queue


def drained(queue: FairQueue[Asked], held: Counter[TenantId], now_s: float = 0.0) -> list[Asked]:
    """All that waits, in the order in which places are given; none is given back."""
    order = []
    while (asked := queue.next(held, now_s)) is not None:
        queue.serve(asked)
        held[asked.tenant] += 1
        order.append(asked)
    return order


def test_one_tenant_is_served_in_order_of_arrival() -> None:
    queue = queue_of(*(Asked(number) for number in (2, 0, 1)))
    assert [asked.number for asked in drained(queue, Counter())] == [0, 1, 2]


def test_who_comes_back_keeps_the_place_before_later_ones() -> None:
    queue = queue_of(Asked(5), Asked(7))
    queue.add(Asked(3))
    assert queue.next(NONE, 0.0) == Asked(3)


def test_who_holds_least_is_next() -> None:
    flood = [Asked(number, ANN) for number in range(4)]
    queue = queue_of(*flood, Asked(9, BOB))
    assert queue.next(Counter({ANN: 3, BOB: 2}), 0.0) == Asked(9, BOB)
    assert queue.next(Counter({ANN: 2, BOB: 2}), 0.0) == flood[0], "the earlier of equals"


def test_an_answer_that_has_begun_goes_on_first() -> None:
    begun = Asked(9, ANN, has_begun=True)
    queue = queue_of(Asked(0, BOB), begun)
    assert queue.next(Counter({ANN: 100}), 0.0) == begun
    queue.discard(begun)
    assert queue.next(Counter(), 0.0) == Asked(0, BOB)


def test_who_would_be_late_lets_others_go_first() -> None:
    late, older, newer = Asked(0), Asked(1, arrived_at_s=8.0), Asked(2, arrived_at_s=9.0)
    queue = queue_of(late, older, newer, fresh_s=5.0)
    assert drained(queue, Counter(), now_s=10.0) == [older, newer, late]


def test_the_oldest_of_the_late_is_next() -> None:
    queue = queue_of(Asked(0), Asked(1), fresh_s=1.0)
    assert queue.next(NONE, 100.0) == Asked(0)


def test_what_no_place_suits_is_passed_over() -> None:
    first, second, other = Asked(0), Asked(1), Asked(2, BOB)
    queue = queue_of(first, second, other)
    assert queue.next(NONE, 0.0, passed=[first]) == second
    assert queue.next(NONE, 0.0, passed=[first, second]) == other
    assert queue.next(NONE, 0.0, passed=[first, second, other]) is None


def test_tenants_that_hold_equally_many_take_turns() -> None:
    """One place, and the flood's next request is older than the quiet tenant's."""
    queue = queue_of(*(Asked(number, ANN) for number in range(9)), Asked(20, BOB), Asked(21, BOB))
    queue.add(Asked(22, CAT))
    order = []
    for _ in range(6):
        asked = queue.next(NONE, 0.0)
        assert asked is not None
        queue.serve(asked)
        order.append(asked.tenant)
    assert order == [ANN, BOB, CAT, ANN, BOB, ANN]


def test_who_has_just_had_a_turn_and_comes_again_is_behind_those_who_wait() -> None:
    queue = queue_of(Asked(0, ANN), Asked(5, BOB))
    queue.serve(Asked(0, ANN))
    queue.add(Asked(1, ANN))
    assert queue.next(NONE, 0.0) == Asked(5, BOB)


def test_many_that_no_place_suits_cost_little() -> None:
    """A replica has died beneath hundreds of requests, and the others are full."""
    back = [Asked(number) for number in range(500)]
    queue = queue_of(*back, *(Asked(number) for number in range(500, 4500)))
    passed: set[Asked] = set()
    while (asked := queue.next(NONE, 0.0, passed=passed)) in back:
        passed.add(asked)
    assert asked == Asked(500)


def joined(queue: FairQueue[Asked], newcomer: Asked) -> Asked:
    """Who would have to leave if the queue were too long with the newcomer."""
    queue.add(newcomer)
    displaced = queue.to_displace(newcomer)
    queue.discard(newcomer)
    return displaced


def test_a_full_queue_takes_from_whoever_has_most_in_it() -> None:
    queue = queue_of(*(Asked(number, ANN) for number in range(3)), Asked(3, BOB))
    assert joined(queue, Asked(9, CAT)) == Asked(2, ANN)
    assert joined(queue, Asked(9, BOB)) == Asked(2, ANN)
    assert joined(queue, Asked(9, ANN)) == Asked(9, ANN)


def test_nobody_is_displaced_for_an_equal() -> None:
    queue = queue_of(*(Asked(number, ANN) for number in range(2)), Asked(3, BOB))
    assert joined(queue, Asked(9, BOB)) == Asked(9, BOB), "they would change places for ever"
    assert joined(queue_of(), Asked(9, BOB)) == Asked(9, BOB)


def test_an_answer_that_has_begun_is_not_displaced() -> None:
    begun = [Asked(number, ANN, has_begun=True) for number in range(9)]
    assert joined(queue_of(*begun, Asked(10, ANN)), Asked(11, BOB)) == Asked(11, BOB)


def test_what_has_left_is_not_there() -> None:
    first = Asked(0)
    queue = queue_of(first, Asked(1, BOB))
    for gone in (first, first, Asked(1, CAT), Asked(2, BOB)):
        queue.discard(gone)
    assert (len(queue), list(queue), queue.num_of(ANN)) == (1, [Asked(1, BOB)], 0)


REQUESTS = st.lists(
    st.builds(
        Asked,
        number=st.just(0),
        tenant=st.sampled_from(TENANTS),
        arrived_at_s=st.floats(0, 100),
        has_begun=st.booleans(),
    ),
    max_size=30,
).map(
    lambda made: [
        replace(asked, number=number)
        for number, asked in enumerate(sorted(made, key=lambda one: one.arrived_at_s))
    ]
)


@settings(deadline=None)
@given(waiting=REQUESTS, now_s=st.floats(0, 200), fresh_s=st.floats(0, 50))
def test_everyone_is_served_once(waiting: list[Asked], now_s: float, fresh_s: float) -> None:
    queue = queue_of(*waiting, fresh_s=fresh_s)
    order = drained(queue, Counter(), now_s)
    assert sorted(order, key=lambda asked: asked.number) == waiting
    assert len(queue) == 0


@settings(deadline=None)
@given(
    asked_for=st.dictionaries(st.sampled_from(TENANTS), st.integers(1, 40), min_size=1),
    num_places=st.integers(1, 60),
)
def test_places_are_shared_max_min_fairly(asked_for: dict[TenantId, int], num_places: int) -> None:
    """No tenant has fewer places than another while it waits for one more, but for the last."""
    each = (tenant for tenant, number in asked_for.items() for _ in range(number))
    queue = queue_of(*(Asked(number, tenant) for number, tenant in enumerate(each)))
    held: Counter[TenantId] = Counter()
    for _ in range(num_places):
        if (asked := queue.next(held, 0.0)) is not None:
            queue.serve(asked)
            held[asked.tenant] += 1
    assert held.total() == min(num_places, sum(asked_for.values())), "no place stays empty"
    for tenant in asked_for:
        if queue.num_of(tenant):
            assert held[tenant] + 1 >= max(held.values())


@settings(deadline=None)
@given(
    coming=st.lists(st.sampled_from(TENANTS), max_size=80),
    max_queued=st.integers(1, 12),
)
def test_a_flood_leaves_others_their_part_of_the_queue(
    coming: list[TenantId], max_queued: int
) -> None:
    queue = queue_of()
    for number, tenant in enumerate(coming):
        newcomer = Asked(number, tenant)
        queue.add(newcomer)
        if len(queue) > max_queued:
            queue.discard(queue.to_displace(newcomer))
    assert len(queue) == min(max_queued, len(coming))
    most = max((queue.num_of(tenant) for tenant in TENANTS), default=0)
    for tenant, number in Counter(coming).items():
        assert queue.num_of(tenant) >= min(number, most - 1)
