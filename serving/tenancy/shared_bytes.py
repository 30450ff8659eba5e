"""Memory for request bodies, shared so that no tenant can take it from the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from serving.core.types import TenantId
from serving.errors import Overloaded

_RETRY_AFTER_S = 1


class SharedBytes:
    """Bytes that tenants hold together, `capacity` at most.

    A tenant may hold as many as are then still free. So one alone gets half of them all; who comes
    beside others that keep what they have gets half of what these leave, which is never nothing;
    and tenants that give back and come again all end up with equal shares, beside `n` others one
    part in `n + 2`. Nothing is set apart for tenants that send nothing.
    Source: the dynamic threshold with alpha = 1 of Choudhury and Hahne, "Dynamic queue length
    thresholds for shared-memory packet switches", IEEE/ACM Transactions on Networking 6(2), 1998.

    >>> memory = SharedBytes(1000)
    >>> with memory.lease(TenantId("ann")) as lease:
    ...     lease.take(500)
    ...     memory.held
    500
    >>> memory.held
    0
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._held_by: dict[TenantId, int] = {}
        self.held = 0
        """Bytes held now."""

    @contextmanager
    def lease(self, tenant: TenantId) -> Iterator[Lease]:
        """What one request of the tenant holds until the context is left; nothing yet."""
        lease = Lease(self, tenant)
        try:
            yield lease
        finally:
            self._give_back(tenant, lease.size)

    def claim(self, tenant: TenantId, size: int) -> None:
        """The tenant holds so many bytes more; for leases, which see that they are given back.

        Raises:
            Overloaded: that is more than the tenant may hold.
        """
        of_tenant = self._held_by.get(tenant, 0) + size
        if of_tenant > self._capacity - self.held - size:
            raise Overloaded(
                "This gateway holds as many bytes of your requests as it may; send fewer at once, "
                "or shorter ones",
                code="gateway_overloaded",
                retryable=True,
                retry_after_s=_RETRY_AFTER_S,
            )
        self._held_by[tenant] = of_tenant
        self.held += size

    def _give_back(self, tenant: TenantId, size: int) -> None:
        self.held -= size
        if left := self._held_by.pop(tenant, 0) - size:
            self._held_by[tenant] = left


class Lease:
    """The bytes that one request holds, `size` so far."""

    def __init__(self, memory: SharedBytes, tenant: TenantId) -> None:
        self._memory = memory
        self._tenant = tenant
        self.size = 0

    def take(self, size: int) -> None:
        """Hold so many bytes more.

        Raises:
            Overloaded: that is more than the tenant may hold.
        """
        self._memory.claim(self._tenant, size)
        self.size += size
