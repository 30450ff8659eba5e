"""Memory for request bodies, shared so that no tenant can take it from the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serving.core.types import TenantId
from serving.errors import Overloaded

_RETRY_AFTER_S = 1


class SharedBytes:
    """Bytes that tenants hold together, `capacity` at most.

    A tenant may hold as many as are then still free: alone half of them all, beside `n` others that
    take what they can get one part in `n + 2`. So there is always something for who comes next, and
    nothing is set apart for tenants that send nothing.
    Source: the dynamic threshold with alpha = 1 of Choudhury and Hahne, "Dynamic queue length
    thresholds for shared-memory packet switches", IEEE/ACM Transactions on Networking 6(2), 1998.

    >>> memory = SharedBytes(1000)
    >>> with memory.lease(TenantId("ann")) as take:
    ...     take(500)
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
    def lease(self, tenant: TenantId) -> Iterator[Callable[[int], None]]:
        """What one request of the tenant holds until the context is left: a function that takes so
        many bytes more, or raises Overloaded if that is more than the tenant may hold."""
        size = 0

        def take(more: int) -> None:
            nonlocal size
            self._take(tenant, more)
            size += more

        try:
            yield take
        finally:
            self._give_back(tenant, size)

    def _take(self, tenant: TenantId, size: int) -> None:
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
