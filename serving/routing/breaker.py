"""Leaving replicas alone that fail one request after the other."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from serving.core.types import ReplicaId

NUM_FAILURES = 3
"""Failures in a row after which a replica is left alone. One may be the request's own fault."""
_FIRST_PAUSE_S = 1.0
_MAX_PAUSE_S = 30.0


@dataclass(slots=True)
class _Record:
    """`num_failures` in a row; from the third on the replica is left alone until `until`."""

    num_failures: int = 0
    pause_s: float = 0.0
    until: float = 0.0
    is_probed: bool = False


class Breakers:
    """A circuit breaker for each replica that has failed lately.

    After three failures in a row the circuit opens: others are preferred for a second. Then it is
    half open: one request may try the replica. Its answer closes the circuit, its failure opens it
    for twice as long, up to 30 s.

    A replica that answers everything with an error at once has the shortest queue of all, so
    without this it would attract every request.

    >>> breakers, broken = Breakers(), ReplicaId("a")
    >>> for _ in range(3):
    ...     breakers.failed(broken, now=10.0)
    >>> breakers.is_open(broken, now=10.9), breakers.is_open(broken, now=11.0)
    (True, False)
    >>> breakers.sent(broken, now=11.0)  # the probe
    >>> breakers.is_open(broken, now=11.1)
    True
    >>> breakers.succeeded(broken)
    >>> breakers.is_open(broken, now=11.2)
    False
    """

    def __init__(self) -> None:
        self._records: dict[ReplicaId, _Record] = {}

    def is_open(self, replica: ReplicaId, now: float) -> bool:
        """Whether to leave the replica alone."""
        record = self._records.get(replica)
        if record is None or record.num_failures < NUM_FAILURES:
            return False
        return record.is_probed or now < record.until

    def sent(self, replica: ReplicaId, now: float) -> None:
        """A request has gone to the replica: the probe, if its circuit is half open."""
        record = self._records.get(replica)
        if record is not None and record.num_failures >= NUM_FAILURES and now >= record.until:
            record.is_probed = True

    def failed(self, replica: ReplicaId, now: float) -> None:
        """A request has failed there, by the replica's fault."""
        record = self._records.setdefault(replica, _Record())
        was_open = record.num_failures >= NUM_FAILURES
        if was_open and now < record.until:
            return  # sent before the circuit opened
        record.num_failures += 1
        record.is_probed = False
        if record.num_failures >= NUM_FAILURES:
            record.pause_s = min(2 * record.pause_s, _MAX_PAUSE_S) if was_open else _FIRST_PAUSE_S
            record.until = now + record.pause_s

    def succeeded(self, replica: ReplicaId) -> None:
        """The replica has begun to answer a request."""
        self._records.pop(replica, None)

    def left(self, replica: ReplicaId) -> None:
        """A request has left without a verdict: its client went away, or there was no room."""
        if (record := self._records.get(replica)) is not None:
            record.is_probed = False

    def keep(self, replicas: Container[ReplicaId]) -> None:
        """There are no others any more."""
        for gone in [replica for replica in self._records if replica not in replicas]:
            del self._records[gone]
