"""The replicas a gateway can reach, by model, and a request's way to one of them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from random import Random
from types import TracebackType
from typing import Self

from serving.core.types import NOBODY, ModelId, ReplicaEndpoint, ReplicaId, TenantId
from serving.errors import Overloaded
from serving.gateway.pool_settings import PoolSettings
from serving.gateway.replica_pool import ReplicaPool
from serving.routing.pipeline import Decision
from serving.routing.snapshots import RequestProfile

_USED_PATIENCE = 0.9
"""Of the time a client waits; the rest is for the answer's way back."""


class Fleet:
    """Running engine replicas by model, fed by `update`, used through a `Ticket` per request.

    Everything runs on one event loop; nothing here waits while it changes state.

    Args:
        pools: what is to be known of each model.
        rng: source of tie-breaks.
        now: monotonic clock, in seconds.
    """

    def __init__(
        self,
        pools: Mapping[ModelId, PoolSettings],
        *,
        rng: Random,
        now: Callable[[], float],
    ) -> None:
        self._pools = {
            model: ReplicaPool(model, settings, rng, now) for model, settings in pools.items()
        }
        self._numbers = count()

    def tell(
        self,
        *,
        on_sent: Callable[[ModelId, int, int], None],
        on_missing: Callable[[ModelId], None],
        on_wanted: Callable[[ModelId], None],
    ) -> None:
        """Call `on_sent` with the model, tokens and expected hits of each prompt that goes to a
        replica, `on_missing` when a request waits for a model that has none, and `on_wanted` for
        each request that is sent or refused for want of room, unless its client repeats it."""
        for model, pool in self._pools.items():
            pool.on_sent = partial(on_sent, model)
            pool.on_missing = partial(on_missing, model)
            pool.on_wanted = partial(on_wanted, model)

    def update(self, model: ModelId, endpoints: Sequence[ReplicaEndpoint]) -> None:
        """Replace what is known of one model's running replicas."""
        self._pools[model].update(endpoints)

    def avoid_hosts(self, hosts: Mapping[str, str]) -> None:
        """Requests prefer replicas on other machines than these, which are about to go.

        Args:
            hosts: reasons by address; those of before are forgotten.
        """
        for pool in self._pools.values():
            pool.leaving_hosts = hosts

    def problems(self) -> list[str]:
        """What an operator must know, as long as it lasts."""
        return [problem for pool in self._pools.values() for problem in pool.problems()]

    def heard(self, model: ModelId, replica: ReplicaId) -> None:
        """A replica has told its state, which counts what it has been sent until now."""
        self._pools[model].heard(replica)

    def endpoints(self, model: ModelId) -> tuple[ReplicaEndpoint, ...]:
        """The running replicas of a model."""
        return self._pools[model].endpoints

    def num_queued(self, model: ModelId) -> int:
        """Requests that wait for room on a replica."""
        return len(self._pools[model].waiting)

    def leaving(self, model: ModelId) -> tuple[ReplicaEndpoint, ...]:
        """Replicas of the model that take no new requests, and may still finish some."""
        return tuple(self._pools[model].leaving.values())

    def has_left(self, model: ModelId, replica: ReplicaId) -> None:
        """A replica that was leaving does not answer any more."""
        self._pools[model].leaving.pop(replica, None)

    def is_missing(self, model: ModelId) -> bool:
        """Whether requests wait for a model that has no replica."""
        pool = self._pools[model]
        return bool(pool.waiting) and not pool.endpoints

    def queued_tokens(self, model: ModelId) -> int:
        """Prompt tokens of the requests that wait for room."""
        return sum(ticket.request.prompt_tokens for ticket in self._pools[model].waiting)

    def num_replicas(self, model: ModelId) -> dict[str, int]:
        """The model's replicas by how they are heard: heard, silent, lost."""
        return self._pools[model].num_replicas()

    def num_in_flight(self, model: ModelId) -> int:
        """Requests this gateway holds on the model's replicas."""
        return self._pools[model].num_in_flight

    def decide(self, model: ModelId, request: RequestProfile) -> Decision:
        """Where the request would go now, and why."""
        return self._pools[model].decide(request)

    def ticket(
        self,
        model: ModelId,
        request: RequestProfile,
        *,
        tenant: TenantId = NOBODY,
        patience_s: float = math.inf,
        is_repeat: bool = False,
    ) -> Ticket:
        """One request's claim to a replica of the model.

        Args:
            tenant: whose share of the replicas it takes from.
            patience_s: how long its client waits for a byte.
            is_repeat: whether its client has been refused with it before.
        """
        number = next(self._numbers)
        ticket = Ticket(self._pools[model], request, number, tenant, patience_s)
        ticket.is_repeat = is_repeat
        return ticket


class Ticket:
    """A request's place in the queue and, later, on a replica: both are given up at its end.

    A request that comes back from a replica without an answer keeps its place.
    """

    def __init__(
        self,
        pool: ReplicaPool,
        request: RequestProfile,
        number: int,
        tenant: TenantId,
        patience_s: float,
    ) -> None:
        self._pool = pool
        self.request = request
        self.number = number
        self.tenant = tenant
        self.arrived_at_s = pool.now()
        # An answer that comes as the client gives up is not read.
        self._patience_s = _USED_PATIENCE * patience_s
        self._wait_until_its_end()
        self._arrival: asyncio.Future[Overloaded | None] | None = None
        self._timeout: asyncio.Timeout | None = None
        self._has_replica = False
        self.has_begun = False
        """Whether its client has a part of the answer, from a replica that was lost."""
        self.excluded: set[ReplicaId] = set()
        """Replicas that have failed this request."""
        self.held: ReplicaEndpoint | None = None
        self.is_counted = False
        """Whether its prompt is in the counters of what was sent."""
        self.is_repeat = False
        self.is_explained = False
        self.decision: Decision | None = None
        """Why that one was chosen, if the request is to be explained: it is large."""
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
            Overloaded: `engine_overloaded` when the queue is full, the wait too long, or another
                tenant with fewer requests needed the place; `model_not_ready` when there is no
                replica to wait for.
        """
        pool = self._pool
        is_new = not (self.is_counted or self._arrival or self.has_begun)
        is_impatient = False
        self._arrival = asyncio.get_running_loop().create_future()
        self._timeout, self._has_replica = None, pool.has_replica_for(self)
        pool.join_queue(self, is_new=is_new)
        try:
            async with asyncio.timeout(self._patience_left_s()) as self._timeout:
                refusal = await self._arrival
        except TimeoutError:
            refusal = pool.overloaded() if pool.has_replica_for(self) else pool.empty()
            is_impatient = self._late_at < self._deadline
        finally:
            pool.leave_queue(self)
        if self.held is None:
            assert refusal is not None
            if refusal.code == "engine_overloaded" and not is_impatient:
                self._refused()
            raise refusal
        return self.held

    def reconsider(self) -> None:
        """If the request waits for room now and no longer for a replica, or the other way round,
        it has the whole time that this may take."""
        has_replica = self._pool.has_replica_for(self)
        if has_replica == self._has_replica or self._timeout is None or self._timeout.expired():
            return
        self._has_replica = has_replica
        self._deadline = self._pool.now() + self._pool.limits.queue_timeout_s
        self._timeout.reschedule(asyncio.get_running_loop().time() + self._patience_left_s())

    def arrive(self) -> None:
        """Wake the request: it now holds a replica."""
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def refuse(self, why: Overloaded) -> None:
        """Wake the request: it waits in vain."""
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(why)

    @property
    def is_late(self) -> bool:
        """Whether the client waits no longer."""
        return self._pool.now() >= self._late_at

    def answered(self) -> None:
        """The first byte of the answer has come."""
        self._pool.answered(self)

    def fail(self) -> None:
        """The held replica has failed the request; the request stays with it."""
        self._pool.failed(self)

    def lose(self) -> None:
        """The held replica was lost in the middle of the answer, and another one is to go on.

        It may wait for that as long as a new request, and before all newer ones, even where the
        queue is full: its client has a part of the answer.
        """
        self.has_begun, self.is_counted = True, False  # it is computed once more
        self._wait_until_its_end()
        self.fail()
        self.give_back(is_full=False)

    def give_back(self, *, is_full: bool) -> None:
        """The held replica did not take the request: for want of room, or for another reason."""
        if self.held is None:
            return
        if is_full:
            self._pool.pause(self.held.id)
        else:
            self.excluded.add(self.held.id)
        self._pool.release(self)

    def _refused(self) -> None:
        """Count a request that had no room, unless it is counted already or was before.

        One whose client gives up before the platform does is none: it was seen while it waited, and
        to come and go at once would make any demand look great.
        """
        if not (self.is_counted or self.has_begun or self.is_repeat):
            self._pool.on_wanted()

    def _wait_until_its_end(self) -> None:
        """Begin to count how long the client waits."""
        now = self._pool.now()
        self._late_at = now + self._patience_s
        self._deadline = now + self._pool.limits.queue_timeout_s

    def _patience_left_s(self) -> float:
        """How much longer to wait, for room or for a replica, in seconds."""
        now, limits = self._pool.now(), self._pool.limits
        left_s = self._deadline - now if self._has_replica else limits.no_replica_wait_s
        return max(min(left_s, self._late_at - now), 0.0)
