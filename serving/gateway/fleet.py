"""The replicas a gateway can reach, how many requests it holds on each, and who waits for one."""

from __future__ import annotations

import asyncio
import math
from bisect import insort
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random
from types import TracebackType
from typing import Self

from serving.core.types import ModelId, ReplicaEndpoint, ReplicaId
from serving.errors import Overloaded
from serving.routing.backlog import CompletionRate, retry_after_s
from serving.routing.pipeline import Obstacle, choose, warming_up
from serving.routing.policies import Policy
from serving.routing.snapshots import ReplicaSnapshot, RequestProfile

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


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """One model's replicas: the requests each accepts at once, how one is chosen, and how long a
    new one is spared."""

    replica_limit: int
    policy: Policy
    warm_up_s: float


class Fleet:
    """Running engine replicas by model, fed by `update`, used through a `Ticket` per request.

    Everything runs on one event loop; nothing here waits while it changes state.

    Args:
        pools: what is to be known of each model.
        limits: bounds of the queues.
        rng: source of tie-breaks.
        now: monotonic clock, in seconds.
    """

    def __init__(
        self,
        pools: Mapping[ModelId, PoolSettings],
        *,
        limits: QueueLimits,
        rng: Random,
        now: Callable[[], float],
    ) -> None:
        self._pools = {
            model: _Pool(model, settings, limits, rng, now) for model, settings in pools.items()
        }
        self._numbers = count()

    def update(self, model: ModelId, endpoints: Sequence[ReplicaEndpoint]) -> None:
        """Replace what is known of one model's running replicas."""
        self._pools[model].update(endpoints)

    def endpoints(self, model: ModelId) -> tuple[ReplicaEndpoint, ...]:
        """The running replicas of a model."""
        return self._pools[model].endpoints

    def num_queued(self, model: ModelId) -> int:
        """Requests that wait for room on a replica."""
        return len(self._pools[model].waiting)

    def num_in_flight(self, model: ModelId) -> int:
        """Requests this gateway holds on the model's replicas."""
        return self._pools[model].in_flight.total()

    def ticket(self, model: ModelId, request: RequestProfile) -> Ticket:
        """One request's claim to a replica of the model, in order of arrival."""
        return Ticket(self._pools[model], request, next(self._numbers))


class Ticket:
    """A request's place in the queue and, later, on a replica: both are given up at its end.

    A request that comes back from a replica without an answer keeps its place.
    """

    def __init__(self, pool: _Pool, request: RequestProfile, number: int) -> None:
        self._pool = pool
        self.request = request
        self._deadline = pool.now() + pool.limits.queue_timeout_s
        self._arrival: asyncio.Future[None] | None = None
        self.number = number
        self.excluded: set[ReplicaId] = set()
        """Replicas that have failed this request."""
        self.held: ReplicaEndpoint | None = None
        self.is_answered = False
        """Whether the first byte of its answer has come: its prompt has been computed."""

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

    def answered(self) -> None:
        """The first byte of the answer has come."""
        self._pool.count_as_answered(self)

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
        settings: PoolSettings,
        limits: QueueLimits,
        rng: Random,
        now: Callable[[], float],
    ) -> None:
        self.limits = limits
        self.now = now
        self.endpoints: tuple[ReplicaEndpoint, ...] = ()
        self.in_flight: Counter[ReplicaId] = Counter()
        self._waiting_tokens: Counter[ReplicaId] = Counter()
        self._known_since: dict[ReplicaId, float] = {}
        self.waiting: list[Ticket] = []
        self.completions = CompletionRate()
        self._model = model
        self._settings = settings
        self._rng = rng
        self._pauses: dict[ReplicaId, asyncio.TimerHandle] = {}

    def has_replica_for(self, ticket: Ticket) -> bool:
        """Whether a replica runs, busy or not, that has not failed the request."""
        return any(endpoint.id not in ticket.excluded for endpoint in self.endpoints)

    def update(self, endpoints: Sequence[ReplicaEndpoint]) -> None:
        """These replicas run now."""
        # Those of the first broadcast may have run for days.
        since = self.now() if self._known_since else -math.inf
        self._known_since = {
            endpoint.id: self._known_since.get(endpoint.id, since) for endpoint in endpoints
        }
        self.endpoints = tuple(endpoints)
        self.serve_waiting()

    def assign(self, ticket: Ticket) -> bool:
        """Let the request hold the best replica with room; whether there is one."""
        replicas = [self._snapshot(endpoint) for endpoint in self.endpoints]
        held_back = warming_up(replicas, warm_up_s=self._settings.warm_up_s)
        offered = [(replica, self._obstacle(replica.id, ticket, held_back)) for replica in replicas]
        policy = self._settings.policy
        picked = choose(ticket.request, offered, policy, self._rng).replica
        if picked is None and held_back:
            offered = [(replica, self._obstacle(replica.id, ticket, ())) for replica in replicas]
            picked = choose(ticket.request, offered, policy, self._rng).replica
        if picked is None:
            return False
        policy.picked(picked)
        ticket.held = next(endpoint for endpoint in self.endpoints if endpoint.id == picked)
        ticket.is_answered = False
        self.in_flight[picked] += 1
        self._waiting_tokens[picked] += ticket.request.prompt_tokens
        return True

    def count_as_answered(self, ticket: Ticket) -> None:
        """The request's prompt waits no more."""
        if ticket.held is None or ticket.is_answered:
            return
        ticket.is_answered = True
        _take_off(self._waiting_tokens, ticket.held.id, ticket.request.prompt_tokens)

    def release(self, ticket: Ticket) -> None:
        """The request holds nothing any more; the next one may have its room."""
        if ticket.held is None:
            return
        self.count_as_answered(ticket)
        replica, ticket.held = ticket.held.id, None
        _take_off(self.in_flight, replica, 1)
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

    def _snapshot(self, endpoint: ReplicaEndpoint) -> ReplicaSnapshot:
        return ReplicaSnapshot(
            endpoint.id,
            in_flight=self.in_flight[endpoint.id],
            waiting_tokens=self._waiting_tokens[endpoint.id],
            node_id=endpoint.node_id,
            known_for_s=self.now() - self._known_since[endpoint.id],
        )

    def _obstacle(
        self, replica: ReplicaId, ticket: Ticket, held_back: Collection[ReplicaId]
    ) -> Obstacle | None:
        if replica in ticket.excluded:
            return Obstacle.FAILED
        if self.in_flight[replica] >= self._settings.replica_limit or replica in self._pauses:
            return Obstacle.FULL
        return Obstacle.WARMING_UP if replica in held_back else None

    def _end_pause(self, replica: ReplicaId) -> None:
        del self._pauses[replica]
        self.serve_waiting()


def _take_off(counter: Counter[ReplicaId], replica: ReplicaId, number: int) -> None:
    """Without leaving zeros: replicas come and go for as long as the gateway lives."""
    counter[replica] -= number
    if not counter[replica]:
        del counter[replica]
