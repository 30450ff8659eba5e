"""Orders of replicas reach Ray's autoscaler, and its nodes come and go with them.

The autoscaler is the one that KubeRay runs. Where KubeRay makes a pod of its order, a provider here
starts processes that pass for a node (`autoscaling_ray.py`); `docs/scaling-on-kubernetes.md` says
what that leaves open.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from e2e.autoscaling_ray import IDLE_TIMEOUT_S, MOST_NODES, autoscaling_ray
from e2e.ray_chain_scenario import STREAM_S, settings
from serving.adapters.state_paths import StatePaths

_SCENARIO_TIMEOUT_S = 240
_SIGHT_S = 0.5
"""Between a change and its being seen."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the scenario has seen, on a cluster that is gone."""
    folder: Path = tmp_path_factory.mktemp("chain")
    record = folder / "record.json"
    with autoscaling_ray(settings(), StatePaths.of(folder, folder)) as cluster:
        arguments = (cluster.address, str(folder), str(record))
        played = cluster.run("e2e.ray_chain_scenario", *arguments, timeout_s=_SCENARIO_TIMEOUT_S)
        print(played.stdout)
        assert played.returncode == 0, f"{played.stderr[-3000:]}\n{cluster.log_tail()}"
    assert cluster.processes() == []
    found: dict[str, Any] = json.loads(record.read_text())
    return found


@pytest.mark.parametrize(("order", "number"), [("first", 1), ("more", MOST_NODES), ("woken", 1)])
def test_an_order_becomes_demand_then_nodes_then_replicas(
    seen: dict[str, Any], order: str, number: int
) -> None:
    """The first order and the one that wakes the model find no node at all."""
    assert seen[order]["nodes"] == seen[order]["running"] == number
    links = seen[order]["links"]
    assert links["ordered"] <= links["demand"] <= links["nodes"] <= links["running"]


def test_streams_of_draining_replicas_end_and_then_their_nodes(seen: dict[str, Any]) -> None:
    assert seen["fewer"]["nodes"] == seen["fewer"]["running"] == 1
    assert [stream["is_whole"] for stream in seen["streams"]] == [True] * MOST_NODES
    outlived = [stream["node_outlived_it_s"] for stream in seen["streams"]]
    gone = [seconds for seconds in outlived if seconds is not None]
    assert len(gone) == MOST_NODES - 1
    assert min(gone) > 0
    # The streams were long enough for a node that only drains to be taken for idle.
    assert seen["fewer"]["links"]["drained"] > STREAM_S / 2 > IDLE_TIMEOUT_S


@pytest.mark.parametrize(("order", "number"), [("fewer", 1), ("none", 0), ("end", 0)])
def test_nodes_without_replicas_go_after_the_idle_timeout(
    seen: dict[str, Any], order: str, number: int
) -> None:
    assert seen[order]["nodes"] == seen[order]["running"] == number
    links = seen[order]["links"]
    assert links["nodes"] - links["drained"] > IDLE_TIMEOUT_S - _SIGHT_S


def test_a_replica_beyond_the_last_node_waits_and_the_others_serve(seen: dict[str, Any]) -> None:
    assert seen["too_many"] == {"waiting": 1, "running": MOST_NODES, "nodes": MOST_NODES}
