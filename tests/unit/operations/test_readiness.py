"""When the platform is ready, and the reason when it is not."""

from __future__ import annotations

from typing import Any

import kube_platform as made
import pytest

from serving.operations.readiness import Phase, assess


def service(**status: Any) -> dict[str, Any]:
    return made.service() | {"status": made.ready_status(1) | status}


def active(state: str, message: str = "") -> dict[str, Any]:
    applications = made.statuses(state, message)
    return {"rayClusterName": "galerne-a", "applicationStatuses": applications}


def test_a_platform_that_runs_is_ready() -> None:
    assert assess(made.snapshot(made.service())).phase is Phase.READY


def test_none_is_absent() -> None:
    assert assess(made.snapshot()).phase is Phase.ABSENT


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({"observedGeneration": 0}, "has not seen the latest change"),
        ({"activeServiceStatus": active("DEPLOYING", "2 of 4")}, "deploying: 2 of 4"),
        ({"activeServiceStatus": {}}, "application galerne: not deployed yet"),
        ({"pendingServiceStatus": {"rayClusterName": "galerne-b"}}, "galerne-b is being built"),
        ({"conditions": [made.condition("Ready", "False", "ZeroServeEndpoints")]}, "ZeroServe"),
        ({"conditions": []}, "the operator says nothing yet"),
    ],
)  # fmt: skip
def test_it_is_on_its_way(status: dict[str, Any], reason: str) -> None:
    readiness = assess(made.snapshot(service(**status)))
    assert readiness.phase is Phase.PROGRESSING
    assert reason in readiness.reason


def test_a_failed_application_does_not_get_better() -> None:
    status = {"activeServiceStatus": active("DEPLOY_FAILED", "no weights\nTraceback")}
    readiness = assess(made.snapshot(service(**status)))
    assert readiness.phase is Phase.FAILED
    assert readiness.reason == f"application engine:{made.MODEL}: no weights"


def test_neither_does_a_service_that_the_operator_gave_up() -> None:
    conditions = [made.condition("Ready", "False", "InitializingTimeout", "after 30m")]
    assert assess(made.snapshot(service(conditions=conditions))).phase is Phase.FAILED


def test_the_old_cluster_s_failure_is_not_the_new_one_s() -> None:
    pending = {"rayClusterName": "galerne-b"}
    status = {"activeServiceStatus": active("DEPLOY_FAILED"), "pendingServiceStatus": pending}
    assert assess(made.snapshot(service(**status))).phase is Phase.PROGRESSING


REFUSED = made.condition("Ready", "False", "ValidationFailed", "serveConfigV2 is no YAML")


def test_what_the_operator_refuses_it_has_seen() -> None:
    """A refusal leaves `observedGeneration` alone."""
    refused = service(observedGeneration=0, conditions=[REFUSED])
    readiness = assess(made.snapshot(refused))
    assert readiness.phase is Phase.FAILED
    assert readiness.reason == "ValidationFailed: serveConfigV2 is no YAML"


def test_a_refusal_is_over_once_a_later_generation_is_accepted() -> None:
    """The condition stays until the first application answers."""
    mended = service(conditions=[REFUSED], activeServiceStatus=active("DEPLOYING"))
    assert assess(made.snapshot(mended)).phase is Phase.PROGRESSING


def test_a_service_given_up_is_so_whatever_the_operator_has_seen() -> None:
    given_up = made.condition("Ready", "False", "InitializingTimeout", "after 30m")
    status = {"observedGeneration": 0, "conditions": [given_up]}
    assert assess(made.snapshot(service(**status))).phase is Phase.FAILED


def test_a_stuck_pod_shows_although_the_operator_records_no_generation() -> None:
    """During a first install it does not: nothing else in the status changes."""
    pods = (made.pod("w", of="galerne-b", node="", **made.unschedulable("no GPU is free")),)
    pending = {"rayClusterName": "galerne-b"}
    first = service(observedGeneration=0, activeServiceStatus={}, pendingServiceStatus=pending)
    assert assess(made.snapshot(first, pods=pods)).reason == (
        "pod w (1 GPU): Unschedulable: no GPU is free"
    )


def test_a_stuck_pod_is_the_reason_of_an_application_that_waits() -> None:
    pods = (made.pod("w", node="", **made.unschedulable("no GPU is free")),)
    waiting = service(activeServiceStatus=active("DEPLOYING"))
    assert assess(made.snapshot(waiting, pods=pods)).reason == (
        "pod w (1 GPU): Unschedulable: no GPU is free"
    )


def test_a_stuck_pod_beside_a_platform_that_runs_is_none() -> None:
    pods = (made.pod("w", node="", **made.unschedulable()),)
    assert assess(made.snapshot(made.service(), pods=pods)).phase is Phase.READY


def test_pods_of_the_old_cluster_are_not_why_the_new_one_waits() -> None:
    pods = (made.pod("old", **made.waiting("CrashLoopBackOff")),)
    upgrading = service(pendingServiceStatus={"rayClusterName": "galerne-b"})
    assert "being built" in assess(made.snapshot(upgrading, pods=pods)).reason
