"""One model's replicas: what each holds, which one is next, and who waits for one."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING

from serving.core.types import ModelId, ReplicaEndpoint, ReplicaId, TenantId
from serving.errors import Overloaded
from serving.gateway.pool_settings import PoolSettings
from serving.gateway.replica_load import ReplicaLoads, take_off
from serving.gateway.replica_states import LOST_S, SUSPECT_S
from serving.routing.backlog import MAX_RETRY_AFTER_S, CompletionRate, retry_after_s
from serving.routing.breaker import Breakers
from serving.routing.pipeline import Decision, Obstacle, choose, warming_up
from serving.routing.snapshots import ReplicaSnapshot, RequestProfile
from serving.tenancy.fair_queue import FairQueue

if TYPE_CHECKING:
    from serving.gateway.fleet import Ticket

_MAX_LEAVING = 64
"""A gateway that nobody asks for them would remember all that there have ever been."""
_LOOK_S = 1.0
"""How often requests that wait are looked at if nothing happens: silence is no event, and it may
make a replica lost, or what it last said void."""
_FULL_PAUSE_S = 0.1
"""How long a replica is left alone that refused for want of room, since other gateways hold its
places, or of which this gateway holds more than its share. Replicas report twice in that time."""


class ReplicaPool:
    """One model's replicas and the requests that wait for one, shared fairly between tenants.

    `on_sent` is told the tokens of each prompt that goes to a replica, and how many of them are
    expected to be cached there; `on_missing` that a request waits and there is no replica;
    `on_wanted` of each request, unless its client repeats it, that is sent or has no room.
    """

    def __init__(
        self, model: ModelId, settings: PoolSettings, rng: Random, now: Callable[[], float]
    ) -> None:
        self.limits = settings.limits
        self.now = now
        self.on_sent: Callable[[int, int], None] = _ignore
        self.on_missing: Callable[[], None] = _ignore
        self.on_wanted: Callable[[], None] = _ignore
        self.endpoints: tuple[ReplicaEndpoint, ...] = ()
        self.leaving: dict[ReplicaId, ReplicaEndpoint] = {}
        """The latest that take no new requests, and may still finish some."""
        self.leaving_hosts: Mapping[str, str] = {}
        """Addresses of machines that are about to go, and why: others are better."""
        self._loads = ReplicaLoads(settings.told)
        self._known_since: dict[ReplicaId, float] = {}
        self._places: Counter[TenantId] = Counter()  # on replicas, by whose requests hold them
        self.waiting: FairQueue[Ticket] = FairQueue(fresh_s=settings.limits.fresh_s)
        self.completions = CompletionRate()
        self._model = model
        self._settings = settings
        self._rng = rng
        self._pauses: dict[ReplicaId, asyncio.TimerHandle] = {}
        self._next_look: asyncio.TimerHandle | None = None
        self._breakers = Breakers()

    @property
    def num_in_flight(self) -> int:
        """Requests that hold a replica."""
        return self._loads.in_flight.total()

    def has_replica_for(self, ticket: Ticket) -> bool:
        """Whether a replica runs, busy or not, that is not lost and has not failed the request."""
        return any(
            endpoint.id not in ticket.excluded
            and self._settings.told.silent_s(endpoint.id) < LOST_S
            for endpoint in self.endpoints
        )

    def update(self, endpoints: Sequence[ReplicaEndpoint]) -> None:
        """These replicas run now."""
        # Those of the first broadcast may have run for days.
        since = self.now() if self._known_since else -math.inf
        self._known_since = {
            endpoint.id: self._known_since.get(endpoint.id, since) for endpoint in endpoints
        }
        for endpoint in self.endpoints:
            if endpoint.id not in self._known_since:
                self.leaving[endpoint.id] = endpoint
        for oldest in list(self.leaving)[:-_MAX_LEAVING]:
            del self.leaving[oldest]
        self.endpoints = tuple(endpoints)
        self._loads.keep(self._known_since)
        self._breakers.keep(self._known_since)
        self.serve_waiting()
        if self.waiting:
            self._reconsider()
            if not endpoints:
                self.on_missing()

    def decide(self, request: RequestProfile, excluded: Collection[ReplicaId] = ()) -> Decision:
        """Where the request would go now; nothing changes."""
        now = self.now()
        replicas = [self._snapshot(endpoint, now) for endpoint in self.endpoints]
        silent = {r.id: Obstacle.SILENT for r in replicas if r.silent_s >= SUSPECT_S}
        failing = {r.id: Obstacle.FAILING for r in replicas if self._breakers.is_open(r.id, now)}
        leaving = dict.fromkeys(self._on_leaving_hosts(), Obstacle.LEAVING)
        new = warming_up(replicas, warm_up_s=self._settings.warm_up_s)
        # Each is better than none at all.
        doubtful = silent | failing
        steady = leaving | doubtful
        for spared in (dict.fromkeys(new, Obstacle.WARMING_UP) | steady, steady, doubtful, {}):
            offered = [(replica, self._obstacle(replica, excluded, spared)) for replica in replicas]
            decision = choose(request, offered, self._settings.policy, self._rng)
            if decision.replica is not None or not spared:
                break
        return decision

    def problems(self) -> list[str]:
        """What an operator must know, as long as it lasts."""
        return [
            f"replica {replica} gets no new requests: {reason}"
            for replica, reason in self._on_leaving_hosts().items()
        ]

    def _on_leaving_hosts(self) -> dict[ReplicaId, str]:
        hosts = self.leaving_hosts
        if not hosts:  # as good as always; addresses need not be parsed for each request
            return {}
        return {e.id: hosts[e.host] for e in self.endpoints if e.host in hosts}

    def assign(self, ticket: Ticket) -> bool:
        """Let the request hold the best replica with room; whether there is one."""
        decision = self.decide(ticket.request, ticket.excluded)
        picked = decision.replica
        if picked is None:
            return False
        if ticket.is_explained:
            ticket.decision = decision
        self._settings.policy.picked(picked)
        self._breakers.sent(picked, self.now())
        ticket.held = next(endpoint for endpoint in self.endpoints if endpoint.id == picked)
        ticket.is_answered = False
        self._loads.sent(picked, ticket.request)
        self._places[ticket.tenant] += 1
        if not ticket.is_counted:  # one that a replica has sent back is no new work
            ticket.is_counted = True
            self.on_sent(ticket.request.prompt_tokens, ticket.request.hit_tokens.get(picked, 0))
            if not ticket.is_repeat:
                self.on_wanted()
        return True

    def heard(self, replica: ReplicaId) -> None:
        """The replica's report counts what it has been sent until now."""
        self._loads.heard(replica)
        if not self.waiting:
            return
        heard = (endpoint for endpoint in self.endpoints if endpoint.id == replica)
        if any(self._has_room(endpoint, self.now()) for endpoint in heard):
            self.serve_waiting()

    def count_as_answered(self, ticket: Ticket) -> None:
        """The request's prompt waits no more."""
        if ticket.held is None or ticket.is_answered:
            return
        ticket.is_answered = True
        self._loads.answered(ticket.held.id, ticket.request)

    def answered(self, ticket: Ticket) -> None:
        """The first byte of the request's answer has come."""
        if ticket.held is not None:
            self._breakers.succeeded(ticket.held.id)
        self.count_as_answered(ticket)

    def failed(self, ticket: Ticket) -> None:
        """The replica that the request holds has failed it."""
        if ticket.held is not None:
            self._breakers.failed(ticket.held.id, self.now())

    def release(self, ticket: Ticket) -> None:
        """The request holds nothing any more; the next one may have its room.

        Unless this gateway has more than its share of a replica that is full: then the others,
        which hear of the room a little later, have it first.
        """
        if ticket.held is None:
            return
        self.count_as_answered(ticket)
        replica, ticket.held = ticket.held.id, None
        limit = self._settings.replica_limit
        if self.waiting and self._loads.has_too_much_of(replica, self.now(), limit=limit):
            self.pause(replica)
        self._breakers.left(replica)
        self._loads.left(replica)
        take_off(self._places, ticket.tenant, 1)
        self.serve_waiting()

    def pause(self, replica: ReplicaId) -> None:
        """Leave a replica alone for a moment, in which other gateways may have its room."""
        if replica not in self._pauses:
            loop = asyncio.get_running_loop()
            self._pauses[replica] = loop.call_later(_FULL_PAUSE_S, self._end_pause, replica)

    def join_queue(self, ticket: Ticket, *, is_new: bool) -> None:
        """Queue a request, one that came back where it was before.

        If a new one finds neither room nor a place in the queue, it or another one is refused.
        """
        self.waiting.add(ticket)
        self.serve_waiting()
        if is_new and ticket.held is None and len(self.waiting) > self.limits.max_queued:
            displaced = self.waiting.to_displace(ticket)
            self.waiting.discard(displaced)
            displaced.refuse(self.overloaded())
        if not self.endpoints:
            self.on_missing()
        if self.waiting and self._next_look is None:
            self._look_later()

    def leave_queue(self, ticket: Ticket) -> None:
        """Forget a request that waits no longer."""
        self.waiting.discard(ticket)

    def serve_waiting(self) -> None:
        """Hand free room to the requests that wait, in the queue's order."""
        if not self.waiting:
            return
        now = self.now()
        free = {endpoint.id for endpoint in self.endpoints if self._has_room(endpoint, now)}
        passed: set[Ticket] = set()
        while free:
            ticket = self.waiting.next(self._places, now, passed=passed)
            if ticket is None:
                return
            if free <= ticket.excluded or not self.assign(ticket):
                passed.add(ticket)
                continue
            self.waiting.serve(ticket)
            ticket.arrive()
            if ticket.held is not None and not self._has_room(ticket.held, now):
                free.discard(ticket.held.id)

    def num_replicas(self) -> dict[str, int]:
        """Replicas by how they are heard: heard, silent, lost."""
        number = dict.fromkeys(("heard", "silent", "lost"), 0)
        for endpoint in self.endpoints:
            silent_s = self._settings.told.silent_s(endpoint.id)
            state = "lost" if silent_s >= LOST_S else "silent" if silent_s >= SUSPECT_S else "heard"
            number[state] += 1
        return number

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
            retry_after_s=min(max(1.0, self.limits.no_replica_wait_s), MAX_RETRY_AFTER_S),
        )

    def _obstacle(
        self,
        replica: ReplicaSnapshot,
        excluded: Collection[ReplicaId],
        spared: Mapping[ReplicaId, Obstacle],
    ) -> Obstacle | None:
        if replica.id in excluded:
            return Obstacle.FAILED
        if replica.silent_s >= LOST_S:
            return Obstacle.LOST
        if replica.is_draining:
            return Obstacle.DRAINING
        if replica.in_flight >= self._settings.replica_limit or replica.id in self._pauses:
            return Obstacle.FULL
        return spared.get(replica.id)

    def _snapshot(self, endpoint: ReplicaEndpoint, now: float) -> ReplicaSnapshot:
        return self._loads.snapshot(endpoint, self._known_since[endpoint.id], now)

    def _has_room(self, endpoint: ReplicaEndpoint, now: float) -> bool:
        """Whether some request could have the replica, as the last choice at least."""
        return self._obstacle(self._snapshot(endpoint, now), (), {}) is None

    def _look_later(self) -> None:
        self._next_look = asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        self._next_look = None
        self.serve_waiting()
        self._reconsider()
        if self.waiting:
            self._look_later()

    def _reconsider(self) -> None:
        """How long each request may wait depends on whether there is a replica for it."""
        for ticket in self.waiting:
            ticket.reconsider()

    def _end_pause(self, replica: ReplicaId) -> None:
        del self._pauses[replica]
        self.serve_waiting()


def _ignore(*_told: object) -> None:
    pass
