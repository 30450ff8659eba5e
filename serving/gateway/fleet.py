"""The replicas a gateway can reach, how many requests it holds on each, and who waits for one."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random
from types import TracebackType
from typing import Self

from serving.core.types import ModelId, ReplicaEndpoint, ReplicaId, ReplicaSnapshot
from serving.errors import Overloaded
from serving.routing.backlog import CompletionRate, retry_after_s
from serving.routing.pipeline import pick_replica

_FULL_PAUSE_S = 0.1
"""How long a replica that refused for want of room is left alone. Other gateways hold its slots,
and their releases are not seen here."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What waiting may cost.

    `max_queued` requests wait per model, each up to `queue_timeout_s` for room on a replica and up
    to `no_replica_wait_s` while there is no replica at all.
    """

    max_queued: int
    queue_timeout_s: float
    no_replica_wait_s: float


class Fleet:
    """Running engine replicas by model, fed by `update`, used through a `Ticket` per request.

    Everything runs on one event loop; nothing here waits while it changes state.

    Args:
        replica_limits: the requests one replica of each model accepts at once.
        limits: bounds of the queues.
        rng: source of tie-breaks.
        now: monotonic clock, in seconds.
    """

    def __init__(
        self,
        replica_limits: Mapping[ModelId, int],
        *,
        limits: QueueLimits,
        rng: Random,
        now: Callable[[], float],
    ) -> None:
        self._pools = {
            model: _Pool(model, limit, limits, rng, now) for model, limit in replica_limits.items()
        }
        self._numbers = count()

    def update(self, model: ModelId, endpoints: Sequence[ReplicaEndpoint]) -> None:
        """Replace what is known of one model's running replicas."""
        pool = self._pools[model]
        pool.endpoints = tuple(endpoints)
        pool.serve_waiting()

    def endpoints(self, model: ModelId) -> tuple[ReplicaEndpoint, ...]:
        """The running replicas of a model."""
        return self._pools[model].endpoints

    def num_queued(self, model: ModelId) -> int:
        """Requests that wait for room on a replica."""
        return len(self._pools[model].waiting)

    def num_in_flight(self, model: ModelId) -> int:
        """Requests this gateway holds on the model's replicas."""
        return self._pools[model].in_flight.total()

    def ticket(self, model: ModelId) -> Ticket:
        """One request's claim to a replica of the model, in order of arrival."""
        return Ticket(self._pools[model], next(self._numbers))


class Ticket:
    """A request's place in the queue and, later, on a replica: both are given up at its end.

    A request that comes back from a replica without an answer keeps its place.
    """

    def __init__(self, pool: _Pool, number: int) -> None:
        self._pool = pool
        self._deadline = pool.now() + pool.limits.queue_timeout_s
        self._arrival: asyncio.Future[None] | None = None
        self.number = number
        self.excluded: set[ReplicaId] = set()
        """Replicas that have failed this request."""
        self.held: ReplicaEndpoint | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.leave_queue(self)
        if self.held is not None:
            self._pool.release(self)
            if kind is None:
                self._pool.completions.record(self._pool.now())

    def take(self) -> ReplicaEndpoint | None:
        """The replica this request holds from now on, if there is room and nobody is before it."""
        if not self._pool.waiting:
            self._pool.assign(self)
        return self.held

    async def wait(self) -> ReplicaEndpoint:
        """Queue until there is a replica to hold.

        Raises:
            Overloaded: `engine_overloaded` when the queue is full or the wait too long,
                `model_not_ready` when there is no replica to wait for.
        """
        pool = self._pool
        is_new = self._arrival is None
        if is_new and len(pool.waiting) >= pool.limits.max_queued:
            raise pool.overloaded()
        self._arrival = asyncio.get_running_loop().create_future()
        pool.join_queue(self)
        timeout_s = (
            max(self._deadline - pool.now(), 0.0)
            if pool.has_replica_for(self)
            else pool.limits.no_replica_wait_s
        )
        try:
            async with asyncio.timeout(timeout_s):
                await self._arrival
        except TimeoutError as error:
            if self.held is None:
                raise pool.overloaded() if pool.has_replica_for(self) else pool.empty() from error
        finally:
            pool.leave_queue(self)
        assert self.held is not None
        return self.held

    def arrive(self) -> None:
        """Wake the request: it now holds a replica."""
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def give_back(self, *, is_full: bool) -> None:
        """The held replica did not take the request: for want of room, or because it failed."""
        if self.held is None:
            return
        if is_full:
            self._pool.pause(self.held.id)
        else:
            self.excluded.add(self.held.id)
        self._pool.release(self)


class _Pool:
    """One model's replicas and the requests that wait for one, first come first served."""

    def __init__(
        self,
        model: ModelId,
        replica_limit: int,
        limits: QueueLimits,
        rng: Random,
        now: Callable[[], float],
    ) -> None:
        self.limits = limits
        self.now = now
        self.endpoints: tuple[ReplicaEndpoint, ...] = ()
        self.in_flight: Counter[ReplicaId] = Counter()
        self.waiting: list[Ticket] = []
        self.completions = CompletionRate()
        self._model = model
        self._replica_limit = replica_limit
        self._rng = rng
        self._pauses: dict[ReplicaId, asyncio.TimerHandle] = {}

    def has_replica_for(self, ticket: Ticket) -> bool:
        """Whether a replica runs, busy or not, that has not failed the request."""
        return any(endpoint.id not in ticket.excluded for endpoint in self.endpoints)

    def assign(self, ticket: Ticket) -> bool:
        """Let the request hold the best replica with room; whether there is one."""
        snapshots = [
            ReplicaSnapshot(endpoint, self.in_flight[endpoint.id])
            for endpoint in self.endpoints
            if self._has_room(endpoint.id)
        ]
        picked = pick_replica(snapshots, exclude=ticket.excluded, rng=self._rng)
        if picked is None:
            return False
        ticket.held = picked.endpoint
        self.in_flight[picked.endpoint.id] += 1
        return True

    def release(self, ticket: Ticket) -> None:
        """The request holds nothing any more; the next one may have its room."""
        if ticket.held is None:
            return
        replica, ticket.held = ticket.held.id, None
        self.in_flight[replica] -= 1
        if not self.in_flight[replica]:
            del self.in_flight[replica]
        self.serve_waiting()

    def pause(self, replica: ReplicaId) -> None:
        """Leave a replica alone that refused for want of room."""
        if replica not in self._pauses:
            loop = asyncio.get_running_loop()
            self._pauses[replica] = loop.call_later(_FULL_PAUSE_S, self._end_pause, replica)

    def join_queue(self, ticket: Ticket) -> None:
        """Queue a request by its number, so that one that came back is before later ones."""
        insort(self.waiting, ticket, key=lambda waiting: waiting.number)
        self.serve_waiting()

    def leave_queue(self, ticket: Ticket) -> None:
        """Forget a request that waits no longer."""
        if ticket in self.waiting:
            self.waiting.remove(ticket)

    def serve_waiting(self) -> None:
        """Hand free room to the requests that wait, in order."""
        for ticket in tuple(self.waiting):
            if self.assign(ticket):
                self.waiting.remove(ticket)
                ticket.arrive()
            elif not ticket.excluded:
                return  # no room for anyone

    def overloaded(self) -> Overloaded:
        """The refusal while every replica is at its limit."""
        wait_s = retry_after_s(len(self.waiting), self.completions.per_second(self.now()))
        return Overloaded(
            f"Every replica of the model `{self._model}` is at its limit",
            code="engine_overloaded",
            retryable=True,
            retry_after_s=wait_s,
        )

    def empty(self) -> Overloaded:
        """The refusal while there is no replica for the request."""
        return Overloaded(
            f"The model `{self._model}` has no replica ready for this request",
            code="model_not_ready",
            param="model",
            retryable=True,
            retry_after_s=max(1.0, self.limits.no_replica_wait_s),
        )

    def _has_room(self, replica: ReplicaId) -> bool:
        return self.in_flight[replica] < self._replica_limit and replica not in self._pauses

    def _end_pause(self, replica: ReplicaId) -> None:
        del self._pauses[replica]
        self.serve_waiting()
