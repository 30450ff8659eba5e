"""Going on, being done, or going back: the decision an upgrade takes at each look."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from serving.operations.readiness import Phase, Readiness
from serving.operations.snapshot import Object

SETTLED_S = 10.0
"""The operator tells of Serve what it saw at its last look, every 2 s, and reads it before it
submits a change: a platform that was ready or had failed before a change is so for a moment after.

Source: kuberay, ray-operator/controllers/ray/rayservice_controller.go, `reconcileServe`.
"""

Version = tuple[Object, ...]
"""What a version of the platform is made of, in the order in which it is put back: the settings'
ConfigMap, where there is one, and the RayService."""

_KEY = "previous.json"
_KEPT_METADATA = ("name", "namespace", "labels", "annotations")
_COPY_OF_KUBECTL = "kubectl.kubernetes.io/last-applied-configuration"


class Step(StrEnum):
    """What follows from a look."""

    WAIT = "wait"
    DONE = "done"
    """The platform is up; whether it answers well is another question."""
    FAILED = "failed"
    LATE = "late"


@dataclass(frozen=True, slots=True)
class Decision:
    """The next step, and why."""

    step: Step
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """How long one has waited, may wait, and has found the platform in the same phase, in seconds;
    and whether this began with a change."""

    waited_s: float
    timeout_s: float
    same_for_s: float = 0.0
    after_change: bool = True


def decide(readiness: Readiness, wait: Wait) -> Decision:
    """What follows from how the platform stands.

    An application that stays failed is given no more time: Serve has tried it several times by
    then.

    >>> decide(Readiness(Phase.PROGRESSING, "loading"), Wait(9, 8)).reason
    'not ready within 8 s: loading'
    >>> decide(Readiness(Phase.READY), Wait(2, 8, same_for_s=2)).step
    <Step.WAIT: 'wait'>
    >>> decide(Readiness(Phase.READY), Wait(0, 8, after_change=False)).step
    <Step.DONE: 'done'>
    """
    is_settled = wait.same_for_s >= SETTLED_S
    if readiness.phase is Phase.READY:
        if is_settled or not wait.after_change:
            return Decision(Step.DONE, "")
        return Decision(Step.WAIT, "ready; whether it stays so")
    if readiness.phase is Phase.ABSENT or (readiness.phase is Phase.FAILED and is_settled):
        return Decision(Step.FAILED, readiness.reason)
    if wait.waited_s >= wait.timeout_s:
        if readiness.phase is Phase.FAILED:
            return Decision(Step.FAILED, readiness.reason)
        return Decision(Step.LATE, f"not ready within {wait.timeout_s:g} s: {readiness.reason}")
    return Decision(Step.WAIT, readiness.reason)


def to_kept(value: Object) -> dict[str, Any]:
    """What of an object a person could have applied."""
    metadata: dict[str, Any] = {key: value["metadata"].get(key) for key in _KEPT_METADATA}
    annotations = {
        name: text for name, text in (metadata["annotations"] or {}).items()
        if name != _COPY_OF_KUBECTL
    }  # fmt: skip
    metadata["annotations"] = annotations
    return {**body_of(value), "metadata": {key: found for key, found in metadata.items() if found}}


def body_of(value: Object) -> dict[str, Any]:
    """An object without its metadata and status."""
    return {key: found for key, found in value.items() if key not in ("metadata", "status")}


def to_history(name: str, namespace: str, version: Version) -> dict[str, Any]:
    """The ConfigMap that keeps what an upgrade replaces."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": {_KEY: json.dumps({"objects": version}, sort_keys=True)},
    }


def from_history(config_map: Object | None) -> Version | None:
    """The version that was replaced; nothing if none is kept."""
    text = ((config_map or {}).get("data") or {}).get(_KEY)
    return None if text is None else tuple(json.loads(text)["objects"])
