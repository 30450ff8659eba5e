"""What Serve says of a deployment."""

from __future__ import annotations

import pytest

from serving.adapters.deployment_state import DeploymentState, ReplicaState


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("", ""),
        ("one\n\n  two  \n", "two"),
        ("serving.errors.ConfigError: a\nserving.errors.EngineError: b\nat x\n", "b"),
        ("2 replicas are slow.\nThis may be caused by a slow __init__ or reconfigure method.", ""),
        ("ray.exceptions.X: serving.errors.ConfigError: gone", "gone"),
    ],
)
def test_the_cause_of_a_failure_is_one_line(message: str, cause: str) -> None:
    assert DeploymentState("UNHEALTHY", (), message).cause == cause


def test_running_replicas_are_counted() -> None:
    replicas = [
        ReplicaState(str(number), phase, pid=None, node=None, started_at=0)
        for number, phase in enumerate(("RUNNING", "RUNNING", "STARTING"))
    ]
    assert DeploymentState("x", replicas, "").num_running == 2
    assert DeploymentState("x", (), "").num_running == 0
