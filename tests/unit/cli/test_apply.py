"""How long `galerne apply` waits, and what ends it."""

from __future__ import annotations

from typing import Any

import pytest

from serving.cli.apply import wait_until_in_force
from serving.errors import ConfigError


def standing(message: str, **found: Any) -> dict[str, Any]:
    return {"done": False, "failure": None, "message": message, "remark": "", **found}


def wait(*steps: tuple[float, dict[str, Any]]) -> tuple[str, list[str]]:
    told: list[str] = []
    return wait_until_in_force(steps, told.append, patience_s=60), told


def test_it_ends_when_the_settings_are_in_force() -> None:
    done = standing("demo 2/2", done=True, remark="; 1 replicas still finish their requests")
    assert wait((0, standing("demo 0/2")), (30, standing("demo 1/2")), (70, done)) == (
        "; 1 replicas still finish their requests", ["demo 0/2", "demo 1/2"]
    )  # fmt: skip


def test_a_failure_is_told() -> None:
    with pytest.raises(ConfigError, match="do not come up: no room"):
        wait((0, standing("demo 0/2")), (1, standing("demo 0/2", failure="no room")))


def test_each_step_has_its_own_time() -> None:
    done = standing("demo 2/2", done=True)
    steps = [(0, standing("demo 0/2")), (59, standing("demo 1/2")), (118, standing("demo 1/2"))]
    wait(*steps, (119, done))
    with pytest.raises(ConfigError, match="demo 1/2, and no further within 60 s"):
        wait(*steps, (120, standing("demo 1/2")), (121, done))
