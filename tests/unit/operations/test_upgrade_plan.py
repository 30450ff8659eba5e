"""When an upgrade goes on, is done or has failed, and what is kept of the version before."""

from __future__ import annotations

import kube_platform as made
import pytest

from serving.operations.readiness import Phase, Readiness
from serving.operations.upgrade_plan import (
    SETTLED_S,
    Step,
    Wait,
    decide,
    from_history,
    to_history,
    to_kept,
)


@pytest.mark.parametrize(
    ("phase", "wait", "step"),
    [
        (Phase.READY, Wait(5, 60, same_for_s=5), Step.WAIT),
        (Phase.READY, Wait(61, 60, same_for_s=5), Step.WAIT),
        (Phase.READY, Wait(20, 60, same_for_s=SETTLED_S), Step.DONE),
        (Phase.READY, Wait(0, 60, after_change=False), Step.DONE),
        (Phase.FAILED, Wait(5, 60, same_for_s=5), Step.WAIT),
        (Phase.FAILED, Wait(5, 60, same_for_s=5, after_change=False), Step.WAIT),
        (Phase.FAILED, Wait(20, 60, same_for_s=SETTLED_S), Step.FAILED),
        (Phase.FAILED, Wait(61, 60, same_for_s=5), Step.FAILED),
        (Phase.ABSENT, Wait(0, 60), Step.FAILED),
        (Phase.PROGRESSING, Wait(59, 60, same_for_s=59), Step.WAIT),
        (Phase.PROGRESSING, Wait(60, 60), Step.LATE),
    ],
)
def test_what_follows_from_a_look(phase: Phase, wait: Wait, step: Step) -> None:
    assert decide(Readiness(phase, "reason"), wait).step is step


def test_kept_is_what_a_person_could_have_applied() -> None:
    service = made.service()
    service["metadata"] |= {
        "uid": "1", "resourceVersion": "7", "managedFields": [], "labels": {"a": "b"},
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
    }  # fmt: skip
    kept = to_kept(service)
    assert kept["metadata"] == {
        "name": "galerne", "namespace": made.NAMESPACE, "labels": {"a": "b"}
    }  # fmt: skip
    assert kept["spec"] == service["spec"]
    assert "status" not in kept


def test_a_version_outlives_its_config_map() -> None:
    version = (to_kept(made.config_map(made.settings())), to_kept(made.service()))
    assert from_history(to_history("h", made.NAMESPACE, version)) == version
    assert from_history(None) is None
