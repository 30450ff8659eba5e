"""What is the matter with a pod, at a glance."""

from __future__ import annotations

from typing import Any

import kube_platform as made

from serving.operations.pods import HOPELESS, view_pod, view_pods


def test_a_ready_pod_has_no_reason() -> None:
    view = view_pod(made.pod("w"))
    assert (view.ready, view.reason, view.gpus, view.group) == (True, "", 1, "gpu")


def test_the_root_of_a_problem_is_the_reason() -> None:
    assert view_pod(made.pod("w", **made.unschedulable("full"))).message == "full"
    view = view_pod(made.pod("w", **made.waiting("ErrImagePull", "not found", restarts=3)))
    assert (view.reason, view.message, view.restarts) == ("ErrImagePull", "not found", 3)
    assert view_pod(made.pod("w", phase="Pending")).reason == "Pending"
    assert view_pod(made.pod("w", phase="Failed", reason="Evicted")).reason == "Evicted"


def test_an_init_container_that_is_done_is_no_problem() -> None:
    done = {"state": {"terminated": {"reason": "Completed"}}}
    conditions = [made.condition("Ready", "True")]
    pod = made.pod("w", phase="Running", conditions=conditions, initContainerStatuses=[done])
    assert view_pod(pod).ready


def ended(name: str, code: int, reason: str | None = "Error", message: str = "") -> dict[str, Any]:
    state = {"exitCode": code, "reason": reason, "message": message}
    return {"name": name, "restartCount": 0, "state": {"terminated": state}}


def test_a_pod_that_is_not_started_again_says_which_container_ended() -> None:
    waiting = {"name": "ray", "state": {"waiting": {"reason": "PodInitializing"}}}
    init = [ended("wait", 0, "Completed"), ended("fetch-weights", 1, message="no such model\n")]
    pod = made.pod("w", phase="Failed", initContainerStatuses=init, containerStatuses=[waiting])
    view = view_pod(pod)
    assert (view.reason, view.container) == ("Error", "fetch-weights")
    assert view.message == "container fetch-weights ended with exit code 1: no such model"
    killed = made.pod("w", phase="Failed", containerStatuses=[ended("ray", 137, "OOMKilled")])
    assert view_pod(killed).reason == "OOMKilled"
    assert {view.reason, "OOMKilled"} < HOPELESS
    evicted = made.pod(
        "w", phase="Failed", reason="Evicted", message="disk", containerStatuses=[ended("ray", 137)]
    )
    assert (view_pod(evicted).reason, view_pod(evicted).message) == ("Evicted", "disk")


def test_a_pod_that_goes_is_not_ready() -> None:
    pod = made.pod("w")
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert view_pod(pod).reason == "Terminating"


def test_heads_come_first() -> None:
    pods = [made.pod("b"), made.pod("a"), made.pod("z", group="head", gpus=0)]
    assert [each.name for each in view_pods(pods)] == ["z", "a", "b"]
