"""What a pool of replicas is given: its limits, its policy, and what replicas tell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from serving.core.types import ReplicaId
from serving.routing.policies import Policy

if TYPE_CHECKING:
    from serving.gateway.replica_states import ReplicaState


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What waiting may cost.

    `max_queued` requests wait per model, each up to `queue_timeout_s` for room on a replica and up
    to `no_replica_wait_s` while there is no replica at all. One that has waited for `fresh_s` lets
    newer ones go first: its answer would begin too late anyway.
    """

    max_queued: int
    queue_timeout_s: float
    no_replica_wait_s: float
    fresh_s: float = math.inf


class ToldStates(Protocol):
    """What replicas tell of themselves."""

    def state(self, replica: ReplicaId) -> ReplicaState | None:
        """What the replica last said of itself."""

    def silent_s(self, replica: ReplicaId) -> float:
        """For how long the replica has neither said nor answered anything, in seconds."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """One model's replicas: the requests each accepts at once, how one is chosen, how long a new
    one is spared, what they tell of themselves, and what waiting for one may cost."""

    replica_limit: int
    policy: Policy
    warm_up_s: float
    told: ToldStates
    limits: QueueLimits
