"""Choosing a replica: filter, score, pick. Pure over snapshots; randomness is injected."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random

from serving.core.types import ReplicaId, ReplicaSnapshot


def pick_replica(
    replicas: Sequence[ReplicaSnapshot], *, exclude: Collection[ReplicaId], rng: Random
) -> ReplicaSnapshot | None:
    """The eligible replica with the fewest requests in flight, ties broken at random.

    Least-in-flight needs no report from the engines, so it is right at once after a start, and
    random ties keep gateways that know nothing of each other from choosing in step.

    Args:
        replicas: all running replicas of one model.
        exclude: replicas that already failed or refused this request.
        rng: source of tie-breaks.

    Returns:
        `None` when no replica is left.

    >>> from serving.core.types import ReplicaEndpoint
    >>> def replica(name, in_flight):
    ...     return ReplicaSnapshot(ReplicaEndpoint(name, "http://x", "", "node", 1, "v"), in_flight)
    >>> fleet = [replica("a", 3), replica("b", 1), replica("c", 2)]
    >>> pick_replica(fleet, exclude=(), rng=Random(0)).endpoint.id
    'b'
    >>> pick_replica(fleet, exclude={"b"}, rng=Random(0)).endpoint.id
    'c'
    """
    eligible = [replica for replica in replicas if replica.endpoint.id not in exclude]
    if not eligible:
        return None
    fewest = min(replica.in_flight for replica in eligible)
    return rng.choice([replica for replica in eligible if replica.in_flight == fewest])
