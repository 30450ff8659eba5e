"""Who is next when room is scarce: tenants share it, and who can still be in time goes first."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection, Iterator, Mapping
from itertools import chain
from typing import Generic, Protocol, TypeVar

from serving.core.types import TenantId


class Waiting(Protocol):
    """A request that waits for a place."""

    @property
    def number(self) -> int:
        """Requests are numbered as they arrive."""

    @property
    def tenant(self) -> TenantId:
        """Whose it is."""

    @property
    def arrived_at_s(self) -> float:
        """When it came, by a monotonic clock."""

    @property
    def has_begun(self) -> bool:
        """Whether its client has a part of the answer."""


W = TypeVar("W", bound=Waiting)


class FairQueue(Generic[W]):
    """Requests that wait for places of equal worth, such as a replica's.

    Those whose answer has begun come first, in order of arrival. Of the others, the next is one of
    the tenant that holds the fewest places: who asks for less than an equal share gets all of it,
    and those who ask for more share the rest evenly (max-min fairness), with no memory of what
    anybody had before. Source: D. Bertsekas and R. Gallager, Data Networks (1992), section 6.5.2.
    Tenants that hold equally many take turns: where there are more of them than places, nobody
    holds fewer than one who has just given up a place.

    Of one tenant's requests the oldest is next that has waited for less than `fresh_s`, and only
    where there is none the oldest of all. Under lasting overload a queue by arrival serves everyone
    too late; this one serves as many in time as there are places, and the late ones as soon as
    there are fewer newcomers. Source: B. Maurer, Fail at Scale, ACM Queue 13 (8), 2015, "adaptive
    LIFO".

    Args:
        fresh_s: for how long a request has not waited too long.
    """

    def __init__(self, *, fresh_s: float = math.inf) -> None:
        self._fresh_s = fresh_s
        self._begun: list[W] = []
        self._by_tenant: dict[TenantId, list[W]] = {}
        self._turns: dict[TenantId, int] = {}  # of those that wait: when each last had a place
        self._num_served = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[W]:
        return chain(self._begun, *self._by_tenant.values())

    def num_of(self, tenant: TenantId) -> int:
        """How many requests of the tenant wait whose answer has not begun."""
        return len(self._by_tenant.get(tenant, ()))

    def add(self, request: W) -> None:
        """Let it wait at the place that its number gives it."""
        if request.has_begun:
            line = self._begun
        else:
            line = self._by_tenant.setdefault(request.tenant, [])
            self._turns.setdefault(request.tenant, self._num_served)
        insort(line, request, key=_number)
        self._length += 1

    def discard(self, request: W) -> None:
        """Forget it, if it waits."""
        line = self._begun if request.has_begun else self._by_tenant.get(request.tenant, [])
        place = bisect_left(line, request.number, key=_number)
        if place == len(line) or line[place] is not request:
            return
        del line[place]
        self._length -= 1
        if not line and not request.has_begun:
            del self._by_tenant[request.tenant], self._turns[request.tenant]

    def serve(self, request: W) -> None:
        """It has its place now, and waits no longer; its tenant's next turn comes after those of
        all who wait now."""
        self.discard(request)
        self._num_served += 1
        if request.tenant in self._turns:
            self._turns[request.tenant] = self._num_served

    def next(
        self, held: Mapping[TenantId, int], now_s: float, *, passed: Collection[W] = ()
    ) -> W | None:
        """The request that is to have the next place; it goes on waiting.

        Takes time in proportion to the tenants that wait, and to what is passed over.

        Args:
            held: places by tenant.
            now_s: by the clock of `arrived_at_s`.
            passed: requests that no free place suits, as a set if they may be many.
        """
        for request in self._begun:
            if request not in passed:
                return request
        firsts = [
            first
            for line in self._by_tenant.values()
            if (first := self._first(line, now_s, passed)) is not None
        ]
        turns = self._turns
        return min(
            firsts,
            key=lambda one: (held.get(one.tenant, 0), turns[one.tenant], one.number),
            default=None,
        )

    def to_displace(self, newcomer: W) -> W:
        """Who has to leave a queue that is too long since the newcomer has joined it: the last to
        come of the tenant with the most requests in it, or the newcomer if its own has as many."""
        longest = max(self._by_tenant.values(), key=len, default=[])
        return longest[-1] if len(longest) > self.num_of(newcomer.tenant) else newcomer

    def _first(self, line: list[W], now_s: float, passed: Collection[W]) -> W | None:
        late = bisect_right(line, now_s - self._fresh_s, key=_arrived_at_s)
        places = chain(range(late, len(line)), range(late))
        return next((line[place] for place in places if line[place] not in passed), None)


def _number(request: Waiting) -> int:
    return request.number


def _arrived_at_s(request: Waiting) -> float:
    return request.arrived_at_s
