"""Whether the platform is up, and if not, the first reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import yaml

from serving.operations.pods import HOPELESS, UNSCHEDULABLE, view_pods
from serving.operations.snapshot import Object, Snapshot, at, condition


class Phase(StrEnum):
    """`FAILED` does not get better by waiting."""

    READY = "ready"
    PROGRESSING = "progressing"
    FAILED = "failed"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Readiness:
    """How the platform stands, and why it is not ready; empty when it is."""

    phase: Phase
    reason: str = ""


def assess(snapshot: Snapshot) -> Readiness:
    """How the platform stands.

    Ready is: the operator has seen the latest specification, serves it from one RayCluster, and
    every application of it runs. Replicas that the scaling policy still adds do not count.
    """
    service = snapshot.service
    if service is None:
        return Readiness(Phase.ABSENT, f"there is no RayService {snapshot.name!r}")
    if at(service, "metadata", "deletionTimestamp"):
        return Readiness(Phase.FAILED, "the RayService is being deleted")
    is_seen = _is_seen(service)
    if refusal := next(_refusals(service, is_seen=is_seen), None):
        return Readiness(Phase.FAILED, refusal)
    if not is_seen:
        # During a first install the operator may not record a generation that changes nothing
        # else in its status: what is stuck must not wait for it.
        unseen = "the operator has not seen the latest change"
        return Readiness(Phase.PROGRESSING, _blocked_pod(snapshot) or unseen)
    if failure := next(_failures(snapshot), None):
        return Readiness(Phase.FAILED, failure)
    if waiting := next(_waits(snapshot), None):
        # A pod that is stuck is why; one that is stuck beside a platform that runs is another's
        # wish: the policy asks for more than there is room for.
        return Readiness(Phase.PROGRESSING, _blocked_pod(snapshot) or waiting)
    return Readiness(Phase.READY)


def _is_seen(service: Object) -> bool:
    generation = at(service, "metadata", "generation") or 0
    return (at(service, "status", "observedGeneration") or 0) >= generation


def _refusals(service: Object, *, is_seen: bool) -> Iterator[str]:
    """Why the operator does nothing more.

    On `InitializingTimeout` it ends each look early. On `ValidationFailed` too, and it leaves
    `observedGeneration` alone; once it accepts a later generation it records that, but the
    condition stays until Serve answers.

    Source: kuberay, ray-operator/controllers/ray/rayservice_controller.go, `Reconcile` and
    `calculateConditions`.
    """
    reasons = {"InitializingTimeout"} if is_seen else {"InitializingTimeout", "ValidationFailed"}
    for kind in ("Ready", "UpgradeInProgress"):
        found = condition(service, kind)
        if found.get("reason") in reasons:
            yield f"{found['reason']}: {found.get('message', '')}"


def _failures(snapshot: Snapshot) -> Iterator[str]:
    # What the new cluster fails at counts, what the old one does is about to end: an incremental
    # upgrade goes on telling of it.
    part = "pendingServiceStatus" if snapshot.pending else "activeServiceStatus"
    for name, status in (at(snapshot.service, "status", part, "applicationStatuses") or {}).items():
        if status.get("status") == "DEPLOY_FAILED":
            yield f"application {name}: {_first_line(status.get('message'))}"


def _waits(snapshot: Snapshot) -> Iterator[str]:
    statuses = _applications(snapshot)
    for name in declared_applications(snapshot):
        status = statuses.get(name, {})
        if status.get("status") != "RUNNING":
            state = str(status.get("status") or "not deployed yet").lower().replace("_", " ")
            message = _first_line(status.get("message"))
            yield f"application {name}: {state}" + (f": {message}" if message else "")
    if snapshot.pending:
        yield f"a new cluster {snapshot.pending} is being built"
    ready = condition(snapshot.service, "Ready")
    if ready.get("status") != "True":
        yield str(ready.get("message") or ready.get("reason") or "the operator says nothing yet")


def _blocked_pod(snapshot: Snapshot) -> str | None:
    """The first pod of the newest cluster that waits for something people know."""
    newest = snapshot.pending or snapshot.active
    for pod in view_pods(snapshot.pods):
        stuck = pod.reason in HOPELESS or pod.reason == UNSCHEDULABLE
        if stuck and pod.cluster in ("", newest):
            gpus = f" ({pod.gpus} GPU)" if pod.gpus else ""
            message = f": {pod.message}" if pod.message else ""
            return f"pod {pod.name}{gpus}: {pod.reason}{message}"
    return None


def declared_applications(snapshot: Snapshot) -> tuple[str, ...]:
    """Names of the Serve applications that the specification asks for."""
    try:
        document = yaml.safe_load(at(snapshot.service, "spec", "serveConfigV2") or "")
    except yaml.YAMLError:
        return ()
    found = document.get("applications") if isinstance(document, Mapping) else None
    return tuple(str(each.get("name", "default")) for each in found or ())


def _applications(snapshot: Snapshot) -> Mapping[str, Mapping[str, Any]]:
    """Statuses of applications, of the cluster that is being built if there is one."""
    for part in ("pendingServiceStatus", "activeServiceStatus"):
        if found := at(snapshot.service, "status", part, "applicationStatuses"):
            return found  # type: ignore[no-any-return]
    return {}


def _first_line(message: Any) -> str:
    return str(message or "").strip().partition("\n")[0]
