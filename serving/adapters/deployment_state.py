"""What Serve says of a deployment, and what it is meant to reach."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_CAUSE = re.compile(r"serving\.errors\.\w+: (.+)")
_SLOW_START = "This may be caused by a slow __init__ or reconfigure method."
"""Serve's guess at a replica that has been starting for 30 s; weights take longer than that.
Source: ray/serve/_private/deployment_state.py, ray 2.60.0."""


@dataclass(frozen=True, slots=True)
class DeploymentTarget:
    """`lowest` to `highest` running replicas of `version`."""

    lowest: int
    highest: int
    version: str


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """What Serve says of one replica: `phase` is STARTING, RUNNING, STOPPING or of that kind.

    `started_at` is when its process was asked for, in Unix time; 0 before that. `pid` and `node`
    are `None` until the process runs.
    """

    id: str
    phase: str
    pid: int | None
    node: str | None
    started_at: float


@dataclass(frozen=True, slots=True)
class DeploymentState:
    """What Serve says of one deployment."""

    status: str
    replicas: Sequence[ReplicaState]
    message: str

    def count(self, phase: str) -> int:
        """Replicas in one phase."""
        return sum(replica.phase == phase for replica in self.replicas)

    @property
    def num_running(self) -> int:
        return self.count("RUNNING")

    @property
    def is_settled(self) -> bool:
        """Whether Serve has nothing more to start or update; replicas may still be stopping."""
        busy = {"STARTING", "UPDATING", "RECOVERING", "PENDING_MIGRATION"}
        return not any(replica.phase in busy for replica in self.replicas)

    @property
    def cause(self) -> str:
        """The reason of a failure in one line: our own error if it holds one, else the last line.

        >>> DeploymentState("UNHEALTHY", (), "x\\nserving.errors.ConfigError: no vLLM\\n").cause
        'no vLLM'
        """
        if found := _CAUSE.findall(self.message):
            return str(found[-1])
        lines = [line.strip() for line in self.message.splitlines() if line.strip()]
        return lines[-1] if lines and lines[-1] != _SLOW_START else ""
