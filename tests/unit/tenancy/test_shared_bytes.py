"""Tenants share memory: never more than there is, never all of it for one of them."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.core.types import TenantId
from serving.errors import Overloaded
from serving.tenancy.shared_bytes import SharedBytes

ANN, BOB = TenantId("ann"), TenantId("bob")
CAPACITY = 1000


def most(memory: SharedBytes, tenant: TenantId, stack: ExitStack) -> int:
    """Bytes that a tenant gets which takes one after the other until it is refused."""
    lease = stack.enter_context(memory.lease(tenant))
    for size in range(CAPACITY + 1):
        try:
            lease.take(1)
        except Overloaded:
            return size
    raise AssertionError("nothing is refused")


def test_a_tenant_alone_may_hold_half() -> None:
    with ExitStack() as stack:
        assert most(SharedBytes(CAPACITY), ANN, stack) == CAPACITY // 2


def test_who_comes_next_finds_half_of_the_rest() -> None:
    memory = SharedBytes(CAPACITY)
    with ExitStack() as stack:
        most(memory, ANN, stack)
        assert most(memory, BOB, stack) == CAPACITY // 4


def test_who_gives_back_and_comes_again_shares_alike() -> None:
    memory = SharedBytes(CAPACITY)
    tenants = [TenantId(f"tenant {n}") for n in range(4)]
    stacks = {tenant: ExitStack() for tenant in tenants}
    held = {tenant: most(memory, tenant, stacks[tenant]) for tenant in tenants}
    assert list(held.values()) == pytest.approx([500, 250, 125, 62], abs=1)
    for _ in range(20):
        for tenant in tenants:
            stacks[tenant].close()
            held[tenant] = most(memory, tenant, stacks[tenant])
    assert list(held.values()) == pytest.approx([CAPACITY / 5] * 4, abs=2)


def test_a_refusal_says_when_to_come_back_and_takes_nothing() -> None:
    memory = SharedBytes(CAPACITY)
    with memory.lease(ANN) as lease, pytest.raises(Overloaded) as caught:
        lease.take(CAPACITY // 2 + 1)
    assert caught.value.code == "gateway_overloaded"
    assert caught.value.retry_after_s == 1
    assert memory.held == 0


def test_all_is_given_back_when_a_request_fails() -> None:
    memory = SharedBytes(CAPACITY)
    stack = ExitStack()
    lease = stack.enter_context(memory.lease(ANN))
    lease.take(10)
    lease.take(20)
    assert memory.held == 30
    stack.__exit__(KeyError, KeyError(), None)
    assert memory.held == 0
    with ExitStack() as stack:
        assert most(memory, ANN, stack) == CAPACITY // 2


def test_requests_of_one_tenant_count_together() -> None:
    memory = SharedBytes(CAPACITY)
    with memory.lease(ANN) as one, memory.lease(ANN) as other:
        one.take(300)
        with pytest.raises(Overloaded):
            other.take(201)
        other.take(200)


class Request:
    """One lease and what it took."""

    def __init__(self, memory: SharedBytes, tenant: str) -> None:
        self.stack = ExitStack()
        self.tenant = tenant
        self.lease = self.stack.enter_context(memory.lease(TenantId(tenant)))
        self.size = 0


STEPS = st.lists(
    st.tuples(st.sampled_from(["open", "take", "close"]), st.integers(0, 5), st.integers(0, 400)),
    max_size=60,
)


@settings(deadline=None)
@given(STEPS)
def test_whatever_tenants_do_the_sum_is_right_and_within_bounds(
    steps: list[tuple[str, int, int]],
) -> None:
    memory = SharedBytes(CAPACITY)
    running: list[Request] = []
    for kind, place, size in steps:
        if kind == "open":
            running.append(Request(memory, f"tenant {place % 3}"))
        elif running:
            request = running[place % len(running)]
            if kind == "close":
                running.remove(request)
                request.stack.close()
                continue
            free = CAPACITY - memory.held
            own = sum(one.size for one in running if one.tenant == request.tenant)
            if own + size <= free - size:
                request.lease.take(size)
                request.size += size
            else:
                with pytest.raises(Overloaded):
                    request.lease.take(size)
        assert memory.held == sum(one.size for one in running) <= CAPACITY
    for request in running:
        request.stack.close()
    assert memory.held == 0
