"""What Serve says of applications and their deployments, and what those are meant to reach."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
    """What Serve says of one deployment; `trigger` is what has led to its status."""

    status: str
    replicas: Sequence[ReplicaState]
    message: str
    trigger: str = ""

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


@dataclass(frozen=True, slots=True)
class ApplicationState:
    """What Serve says of one application and its deployments by name."""

    status: str
    message: str
    deployments: Mapping[str, DeploymentState]

    @property
    def has_begun(self) -> bool:
        """Whether Serve acts on what it was given last.

        Its controller begins that in its next round; until then the application is to be deployed,
        and its deployments are shown as they were before.
        """
        changing = {"UPDATING", "UPSCALING", "DOWNSCALING"}
        return self.status != "DEPLOYING" or any(
            deployment.status in changing for deployment in self.deployments.values()
        )

    @property
    def has_failed(self) -> bool:
        """Whether Serve has given it up, or a deployment of it that an autoscaler changed while it
        was new: Serve takes that one for an old one that has fallen ill. What failed before is no
        failure of what Serve has yet to begin."""
        return self.status == "DEPLOY_FAILED" or (
            self.status == "UNHEALTHY"
            and any(each.trigger == "REPLICA_STARTUP_FAILED" for each in self.deployments.values())
        )


def deployments_of(
    applications: Mapping[str, ApplicationState],
) -> dict[str, DeploymentState]:
    """The deployments of all applications by name."""
    return {
        name: deployment
        for application in applications.values()
        for name, deployment in application.deployments.items()
    }
