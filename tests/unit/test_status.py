"""The status document: three views that may disagree, in one shape."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from serving.adapters.deployment_state import (
    ApplicationState,
    DeploymentState,
    DeploymentTarget,
    ReplicaState,
)
from serving.status import Views, compose_rollout, compose_status, num_current

ENGINE = {"sliding_window": 64, "max_model_len": 512, "block_size": 16, "kv_blocks_total": 900}
REPLICA_KEYS = {
    "id", "state", "started_at", "pid", "node",
    "in_flight", "waiting", "kv_blocks_used", "kv_blocks_total",
}  # fmt: skip
STARTED_AT = 1_800_000_000.0
STARTED = "2027-01-15T08:00:00+00:00"


def told(*, draining: bool = False) -> dict[str, Any]:
    return {
        "engine": ENGINE,
        "load": {"running": 2, "waiting": 1, "kv_blocks_used": 30},
        "in_flight": 3,
        "draining": draining,
    }


def seen(name: str, state: dict[str, Any] | None) -> dict[str, Any]:
    return {"id": name, "url": "http://10.0.0.1:5", "node_id": "n1", "pid": 41, "state": state}


def known(name: str, phase: str = "RUNNING") -> ReplicaState:
    return ReplicaState(name, phase, pid=77, node="n2", started_at=STARTED_AT)


def serve(**phases: int) -> DeploymentState:
    """Replicas named `a`, `b`, … in these phases."""
    listed = [phase for phase, count in phases.items() for _ in range(count)]
    replicas = [known(name, phase) for name, phase in zip("abcdef", listed, strict=False)]
    return DeploymentState("HEALTHY", replicas, "")


def model_of(*replicas: dict[str, Any], state: DeploymentState | None = None) -> dict[str, Any]:
    states = {} if state is None else {"engine:demo": state}
    views = Views(states, [], {"models": {"demo": list(replicas)}})
    (model,) = compose_status("http://e", ["demo"], views)["models"]
    assert all(row.keys() == REPLICA_KEYS for row in model["replicas"])
    return dict(model)


def test_a_running_replica_is_shown_with_its_load() -> None:
    model = model_of(seen("a", told()), state=serve(RUNNING=1))

    assert {key: model[key] for key in ("id", "status", "sliding_window", "max_model_len")} == {
        "id": "demo", "status": "HEALTHY", "sliding_window": 64, "max_model_len": 512
    }  # fmt: skip
    assert model["kv_block_size"] == 16
    assert model["replicas"] == [
        {
            "id": "a", "state": "RUNNING", "started_at": STARTED, "pid": 41, "node": "n1",
            "in_flight": 3, "waiting": 1, "kv_blocks_used": 30, "kv_blocks_total": 900,
        }
    ]  # fmt: skip


def test_a_draining_replica_says_so() -> None:
    assert model_of(seen("a", told(draining=True)))["replicas"][0]["state"] == "DRAINING"


def test_a_silent_replica_is_unreachable_but_still_has_its_pid() -> None:
    (row,) = model_of(seen("a", None), state=serve(RUNNING=1))["replicas"]
    assert (row["state"], row["pid"], row["in_flight"]) == ("UNREACHABLE", 41, None)


def test_the_model_is_described_by_any_replica_that_answers() -> None:
    assert model_of(seen("a", None), seen("b", told()))["sliding_window"] == 64
    assert model_of(seen("a", None))["sliding_window"] is None


def test_replicas_that_only_serve_knows_say_since_when_they_start() -> None:
    model = model_of(seen("a", told()), state=serve(RUNNING=1, STARTING=2))
    shown = [(row["id"], row["state"], row["started_at"]) for row in model["replicas"]]
    assert shown == [
        ("a", "RUNNING", STARTED),
        ("b", "STARTING", STARTED),
        ("c", "STARTING", STARTED),
    ]


def test_a_replica_that_serve_does_not_list_any_more_has_no_start() -> None:
    assert model_of(seen("z", told()))["replicas"][0]["started_at"] is None


def test_running_replicas_are_counted_while_no_gateway_answers() -> None:
    views = Views({"engine:demo": serve(RUNNING=2)}, [], None)
    (model,) = compose_status("http://e", ["demo"], views)["models"]
    assert len(model["replicas"]) == 2


def test_before_anything_is_known() -> None:
    document = compose_status("http://e", ["demo", "other"], Views({}, [], None))

    assert document["endpoint"] == "http://e"
    assert [(m["id"], m["status"], m["replicas"]) for m in document["models"]] == [
        ("demo", "UNKNOWN", []), ("other", "UNKNOWN", [])
    ]  # fmt: skip
    assert document["gateways"] == []


def test_a_failure_is_told_in_one_line() -> None:
    message = "Traceback\n  x\nserving.errors.ConfigError: no such folder\n"
    model = model_of(state=DeploymentState("UNHEALTHY", [known("a", "STARTING")], message))
    assert (model["status"], model["message"]) == ("UNHEALTHY", "no such folder")


def gateways_of(told: list[dict[str, Any]], *replicas: ReplicaState) -> list[dict[str, Any]]:
    views = Views({"gateway": DeploymentState("HEALTHY", replicas, "")}, told, None)
    return list(compose_status("http://e", [], views)["gateways"])


def test_gateways_are_listed_with_their_process_and_problems() -> None:
    told = [
        {"id": "g1", "pid": 77, "problems": ["access log: full, 3 lines lost"]},
        {"id": "g2", "pid": None, "problems": None},
    ]
    assert gateways_of(told, known("g1"), known("g2", "STARTING")) == [
        {
            "id": "g1", "state": "RUNNING", "started_at": STARTED, "pid": 77, "node": "n2",
            "problems": ["access log: full, 3 lines lost"],
        },
        {
            "id": "g2", "state": "STARTING", "started_at": STARTED, "pid": 77, "node": "n2",
            "problems": [],
        },
    ]  # fmt: skip


def test_gateways_with_clocks_apart_are_named() -> None:
    told = [
        {"id": "g1", "pid": 77, "problems": ["x"], "clock_ahead_s": 90.0},
        {"id": "g2", "pid": 78, "problems": [], "clock_ahead_s": -1.9},
    ]
    assert [row["problems"] for row in gateways_of(told, known("g1"), known("g2"))] == [
        ["x", "its clock is 90 s ahead: keys expire early there, and its log lines are misplaced"],
        [],
    ]


def test_a_gateway_that_says_nothing_is_unreachable() -> None:
    for told in ([], [{"id": "g1", "pid": None, "problems": None}]):
        assert [row["state"] for row in gateways_of(told, known("g1"))] == ["UNREACHABLE"]


def test_no_address_of_a_replica_is_shown() -> None:
    assert "10.0.0.1" not in str(model_of(seen("a", told())))


# --- roll-outs -----------------------------------------------------------------------------------


def rollout(
    state: DeploymentState | None,
    *,
    versions: list[str],
    lowest: int = 2,
    highest: int = 2,
    status: str = "RUNNING",
) -> dict[str, Any]:
    """Of one model whose running replicas have these versions, to replicas of version `new`."""
    targets = {"engine:demo": DeploymentTarget(lowest, highest, "new")}
    rows = [{"version": version} for version in versions]
    current = num_current(targets, [], {"models": {"demo": rows}})
    deployments = {"engine:demo": state} if state else {}
    applications = {"engine:demo": ApplicationState(status, "it failed", deployments)}
    return compose_rollout(applications, targets, current)


def test_settings_are_in_force_once_every_replica_has_them() -> None:
    document = rollout(serve(RUNNING=2), versions=["new", "new"])
    assert document["done"]
    assert document["message"] == "rolling out: demo 2/2"
    assert document["remark"] == ""


def test_nothing_is_in_force_before_serve_has_begun_the_change() -> None:
    """A change that failed is taken back: all replicas have the old settings, which are wanted."""
    failed = replace(serve(RUNNING=2), status="DEPLOY_FAILED", message="no room")
    document = rollout(failed, versions=["new", "new"], status="DEPLOYING")
    assert not document["done"]
    assert document["message"] == "waiting for Ray Serve"
    assert document["failure"] is None
    begun = replace(failed, status="UPDATING", message="")
    assert rollout(begun, versions=["new", "new"], status="DEPLOYING")["done"]


def test_replicas_that_an_autoscaler_orders_beyond_the_least_hold_nothing_up() -> None:
    """They may wait for a GPU for hours."""
    more = serve(RUNNING=2, STARTING=1)
    assert rollout(more, versions=["new", "new"], lowest=1, highest=4)["done"]
    assert not rollout(more, versions=["new", "old"], lowest=1, highest=4)["done"]
    assert not rollout(more, versions=["new", "new"], lowest=3, highest=4)["done"]


@pytest.mark.parametrize(
    ("status", "deployment"),
    [
        ("DEPLOY_FAILED", DeploymentState("DEPLOY_FAILED", (), "x\nno room")),
        ("UNHEALTHY", DeploymentState("UNHEALTHY", (), "no room", "REPLICA_STARTUP_FAILED")),
    ],
)
def test_a_failure_is_told_with_its_cause(status: str, deployment: DeploymentState) -> None:
    assert rollout(deployment, versions=[], status=status)["failure"] == "demo: no room"


def test_what_failed_before_is_no_failure_of_a_change_that_has_not_begun() -> None:
    ill = DeploymentState("UNHEALTHY", (), "no room", "REPLICA_STARTUP_FAILED")
    assert rollout(ill, versions=[], status="DEPLOYING")["failure"] is None


def test_a_failure_without_a_deployment_s_word_has_the_application_s() -> None:
    assert rollout(None, versions=[], status="DEPLOY_FAILED")["failure"] == "it failed"


def test_a_replica_that_has_fallen_ill_is_no_failure_of_the_change() -> None:
    ill = DeploymentState("UNHEALTHY", (), "hung", "HEALTH_CHECK_FAILED")
    assert rollout(ill, versions=[], status="UNHEALTHY")["failure"] is None


def test_old_replicas_do_not_count_however_healthy() -> None:
    """New ones that failed leave as many running replicas as are wanted, and none starting."""
    document = rollout(serve(RUNNING=2, STOPPING=2), versions=["old", "old"])
    assert not document["done"]
    assert document["message"] == "rolling out: demo 0/2"


def test_replicas_that_finish_their_streams_hold_nothing_up() -> None:
    document = rollout(serve(RUNNING=2, STOPPING=1), versions=["new", "new"])
    assert document["done"]
    assert "1 replicas still finish" in document["remark"]


@pytest.mark.parametrize(
    ("phases", "versions"),
    [
        ({"RUNNING": 2, "STARTING": 1}, ["new", "new"]),
        ({"RUNNING": 1}, ["new"]),
        ({"RUNNING": 3}, ["new", "new", "new"]),
        ({"RUNNING": 2}, ["new", "old"]),
        ({}, []),
    ],
)
def test_anything_else_is_still_under_way(phases: dict[str, int], versions: list[str]) -> None:
    assert not rollout(serve(**phases), versions=versions)["done"]


def test_gateways_count_by_what_they_tell_of_themselves() -> None:
    targets = {"gateway": DeploymentTarget(2, 2, "new")}
    gateways = [{"version": "new"}, {"version": None}, {"version": "old"}]
    assert num_current(targets, gateways, None) == {"gateway": 1}
