"""What Serve says of a deployment, and what it is meant to reach."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

GATEWAY = "gateway"
"""The Serve deployment of the gateways."""

_CAUSE = re.compile(r"serving\.errors\.\w+: (.+)")


def engine_deployment_name(model_id: str) -> str:
    """The Serve deployment of a model."""
    return f"engine:{model_id}"


@dataclass(frozen=True, slots=True)
class DeploymentTarget:
    """`replicas` running ones of `version`."""

    replicas: int
    version: str


@dataclass(frozen=True, slots=True)
class DeploymentState:
    """What Serve says of one deployment: `replica_states` counts replicas by state."""

    status: str
    replica_states: Mapping[str, int]
    message: str

    @property
    def num_running(self) -> int:
        return self.replica_states.get("RUNNING", 0)

    @property
    def is_settled(self) -> bool:
        """Whether Serve has nothing more to start or update; replicas may still be stopping."""
        busy = {"STARTING", "UPDATING", "RECOVERING", "PENDING_MIGRATION"}
        return not any(self.replica_states.get(phase) for phase in busy)

    @property
    def cause(self) -> str:
        """The reason of a failure in one line: our own error if it holds one, else the last line.

        >>> DeploymentState("UNHEALTHY", {}, "x\\nserving.errors.ConfigError: no vLLM\\n").cause
        'no vLLM'
        """
        if found := _CAUSE.findall(self.message):
            return str(found[-1])
        lines = [line.strip() for line in self.message.splitlines() if line.strip()]
        return lines[-1] if lines else ""
