"""Which changes build a second cluster."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import kube_platform as made
import pytest

from serving.operations.cluster_change import Effect, change_of

Change = Callable[[dict[str, Any]], object]


def group(spec: dict[str, Any]) -> Any:
    return spec["rayClusterConfig"]["workerGroupSpecs"][0]


def pod(spec: dict[str, Any]) -> Any:
    return group(spec)["template"]["spec"]


IN_PLACE: dict[str, Change] = {
    "serve": lambda spec: spec.update(serveConfigV2="applications: []"),
    "bounds": lambda spec: group(spec).update(minReplicas=0, maxReplicas=9, replicas=3),
    "pods to delete": lambda spec: group(spec).update(scaleStrategy={"workersToDelete": ["w"]}),
    "a group at the end": lambda spec: spec["rayClusterConfig"]["workerGroupSpecs"].append(
        group(copy.deepcopy(spec)) | {"groupName": "more"}
    ),
    "strategy": lambda spec: spec.update(upgradeStrategy={"type": "None"}),
}
REBUILT: dict[str, Change] = {
    "image": lambda spec: pod(spec)["containers"][0].update(image="galerne:2"),
    "head": lambda spec: spec["rayClusterConfig"]["headGroupSpec"].update(
        rayStartParams={"num-cpus": "0"}
    ),
    "tolerations": lambda spec: pod(spec).update(tolerations=[{"operator": "Exists"}]),
    "the cluster's own strategy": lambda spec: spec["rayClusterConfig"].update(
        upgradeStrategy={"type": "Recreate"}
    ),
    "label": lambda spec: group(spec)["template"].update(metadata={"labels": {"a": "b"}}),
    "a group less": lambda spec: spec["rayClusterConfig"]["workerGroupSpecs"].clear(),
    "autoscaler": lambda spec: spec["rayClusterConfig"].update(enableInTreeAutoscaling=True),
    "idle timeout": lambda spec: group(spec).update(idleTimeoutSeconds=600),
}


@pytest.mark.parametrize("name", [*IN_PLACE, *REBUILT])
def test_what_a_change_brings_about(name: str) -> None:
    before: dict[str, Any] = made.service()["spec"]
    after = copy.deepcopy(before)
    (IN_PLACE | REBUILT)[name](after)
    change = change_of(before, after)
    assert change.effect is (Effect.IN_PLACE if name in IN_PLACE else Effect.NEW_CLUSTER)
    assert change.fields


def test_no_change_is_none() -> None:
    spec = made.service()["spec"]
    assert change_of(spec, copy.deepcopy(spec)).effect is Effect.NOTHING
    assert change_of(None, spec).effect is Effect.NEW_CLUSTER


def test_without_a_strategy_the_operator_builds_none() -> None:
    before = made.service()["spec"] | {"upgradeStrategy": {"type": "None"}}
    after = copy.deepcopy(before)
    REBUILT["image"](after)
    assert change_of(before, after).effect is Effect.IGNORED
