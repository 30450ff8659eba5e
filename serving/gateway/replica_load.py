"""What each replica of a model has to do: what it tells, and what this gateway has sent since."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from typing import TypeVar

from serving.core.types import ReplicaEndpoint, ReplicaId, TenantId
from serving.gateway.pool_settings import ToldStates
from serving.routing.snapshots import (
    UNKNOWN_PREFILL_TOKENS_PER_S,
    ReplicaSnapshot,
    RequestProfile,
)

Counted = TypeVar("Counted", ReplicaId, TenantId)

_STALE_S = 3.0
"""A report this old says nothing any more: a replica that was full must not stay so for ever."""


class ReplicaLoads:
    """The requests that this gateway has at each replica, beside what the replica reports.

    A report counts the requests of all gateways, and is some tens of milliseconds old: what this
    gateway has sent since is added, so that it does not send a crowd to whoever was idle then.
    """

    def __init__(self, told: ToldStates) -> None:
        self.in_flight: Counter[ReplicaId] = Counter()
        self._told = told
        self._waiting_tokens: Counter[ReplicaId] = Counter()  # of requests without an answer yet
        self._sent: Counter[ReplicaId] = Counter()  # requests since the replica's last report
        self._sent_tokens: Counter[ReplicaId] = Counter()

    def sent(self, replica: ReplicaId, request: RequestProfile) -> None:
        """The request is on its way to the replica."""
        self.in_flight[replica] += 1
        self._waiting_tokens[replica] += request.prompt_tokens
        self._sent[replica] += 1
        self._sent_tokens[replica] += request.uncached_tokens(replica)

    def answered(self, replica: ReplicaId, request: RequestProfile) -> None:
        """The request's prompt waits no more."""
        take_off(self._waiting_tokens, replica, request.prompt_tokens)

    def left(self, replica: ReplicaId) -> None:
        """A request is at the replica no more."""
        take_off(self.in_flight, replica, 1)

    def heard(self, replica: ReplicaId) -> None:
        """The replica's report counts what it has been sent until now."""
        self._sent.pop(replica, None)
        self._sent_tokens.pop(replica, None)

    def keep(self, running: Container[ReplicaId]) -> None:
        """Forget what was sent to replicas other than these; what is in flight still ends."""
        for gone in [replica for replica in self._sent if replica not in running]:
            del self._sent[gone], self._sent_tokens[gone]

    def has_too_much_of(self, replica: ReplicaId, now: float, *, limit: int) -> bool:
        """Whether the replica is full and more than this gateway's share of it is this gateway's.

        Args:
            replica: one at which this gateway has a request that has just ended.
            limit: requests that the replica accepts at once.
        """
        state = self._told.state(replica)
        if state is None or now - state.heard_at > _STALE_S:
            return False
        if state.report.in_flight + self._sent[replica] < limit:
            return False
        return (self.in_flight[replica] - 1) * state.report.num_gateways >= limit

    def snapshot(
        self, endpoint: ReplicaEndpoint, known_since: float, now: float
    ) -> ReplicaSnapshot:
        """What is known of the replica's load now."""
        replica, known_for_s = endpoint.id, now - known_since
        state = self._told.state(replica)
        silent_s = self._told.silent_s(replica)
        if state is None or now - state.heard_at > _STALE_S:
            return ReplicaSnapshot(
                replica,
                in_flight=self.in_flight[replica],
                waiting_tokens=self._waiting_tokens[replica],
                node_id=endpoint.node_id,
                known_for_s=known_for_s,
                silent_s=silent_s,
            )
        report, layout = state.report, state.layout
        return ReplicaSnapshot(
            replica,
            in_flight=max(self.in_flight[replica], report.in_flight + self._sent[replica]),
            waiting_tokens=report.waiting_tokens + self._sent_tokens[replica],
            prefill_tokens_per_s=report.prefill_tokens_per_s or UNKNOWN_PREFILL_TOKENS_PER_S,
            free_kv_tokens=(layout.total_blocks - report.kv_blocks_used) * layout.block_size,
            total_kv_tokens=layout.total_blocks * layout.block_size,
            adapters=frozenset(report.adapters),
            node_id=endpoint.node_id,
            is_draining=report.draining,
            report_age_s=now - state.heard_at,
            known_for_s=known_for_s,
            silent_s=silent_s,
        )


def take_off(counter: Counter[Counted], counted: Counted, number: int) -> None:
    """Without leaving zeros: replicas and tenants come and go for as long as the gateway lives."""
    counter[counted] -= number
    if not counter[counted]:
        del counter[counted]
