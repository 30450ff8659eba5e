"""What Serve says of a deployment."""

from __future__ import annotations

import pytest

from serving.adapters.deployment_state import DeploymentState


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("", ""),
        ("one\n\n  two  \n", "two"),
        ("serving.errors.ConfigError: a\nserving.errors.EngineError: b\nat x\n", "b"),
        ("ray.exceptions.X: serving.errors.ConfigError: gone", "gone"),
    ],
)
def test_the_cause_of_a_failure_is_one_line(message: str, cause: str) -> None:
    assert DeploymentState("UNHEALTHY", {}, message).cause == cause


def test_running_replicas_are_counted() -> None:
    assert DeploymentState("x", {"RUNNING": 2, "STARTING": 1}, "").num_running == 2
    assert DeploymentState("x", {}, "").num_running == 0
