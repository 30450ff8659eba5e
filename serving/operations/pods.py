"""What is the matter with a pod."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from serving.operations.snapshot import (
    CLUSTER_LABEL,
    GROUP_LABEL,
    TYPE_LABEL,
    Object,
    at,
    condition,
    labels_of,
    name_of,
    num_gpus,
)

UNSCHEDULABLE = "Unschedulable"
PULL_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull",
     "RegistryUnavailable"}
)  # fmt: skip
ENDED_REASONS = frozenset({"Error", "OOMKilled", "ContainerCannotRun", "StartError"})
"""Of containers that ended. Where `restartPolicy` is Never, as of all Ray pods under Ray's
autoscaler v2, nothing starts them again: the operator makes another pod, which fares no better."""
HOPELESS = PULL_REASONS | ENDED_REASONS | {
    "CrashLoopBackOff", "CreateContainerConfigError", "CreateContainerError",
    "RunContainerError",
}  # fmt: skip
"""Reasons that time alone does not mend. Source: kubernetes, pkg/kubelet/images/types.go and
pkg/kubelet/container/sync_result.go."""


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod at a glance. `reason` is empty while it is ready, `container` unless it is of one."""

    name: str
    cluster: str
    group: str
    node: str
    phase: str
    ready: bool
    reason: str
    message: str
    restarts: int
    gpus: int
    container: str = ""


@dataclass(frozen=True, slots=True)
class _Problem:
    reason: str = ""
    message: str = ""
    container: str = ""


def view_pod(pod: Object) -> PodView:
    """A pod at a glance."""
    labels = labels_of(pod)
    problem = _problem(pod)
    is_head = labels.get(TYPE_LABEL) == "head"
    return PodView(
        name=name_of(pod),
        cluster=labels.get(CLUSTER_LABEL, ""),
        group="head" if is_head else labels.get(GROUP_LABEL, ""),
        node=str(at(pod, "spec", "nodeName") or ""),
        phase=str(at(pod, "status", "phase") or "Pending"),
        ready=not problem.reason,
        reason=problem.reason,
        message=problem.message,
        restarts=sum(each.get("restartCount", 0) for each in _containers(pod)),
        gpus=num_gpus(pod.get("spec") or {}),
        container=problem.container,
    )


def view_pods(pods: Iterable[Object]) -> tuple[PodView, ...]:
    """Pods at a glance: heads first, then by group and name."""
    views = (view_pod(pod) for pod in pods)
    return tuple(sorted(views, key=lambda v: (v.cluster, v.group != "head", v.group, v.name)))


def _problem(pod: Object) -> _Problem:
    """What keeps a pod from being ready; the root of it, if it is known."""
    if at(pod, "metadata", "deletionTimestamp"):
        return _Problem("Terminating")
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return _of(scheduled, UNSCHEDULABLE)
    status: Mapping[str, Any] = pod.get("status") or {}
    if status.get("phase") in ("Failed", "Succeeded"):
        # A reason of the pod itself, such as Evicted, is why its containers ended.
        ended = None if status.get("reason") else next(_troubles(pod), None)
        return ended or _of(status, str(status["phase"]))
    if trouble := next(_troubles(pod), None):
        return trouble
    ready = condition(pod, "Ready")
    return _Problem() if ready.get("status") == "True" else _of(ready, "Pending")


def _of(said: Mapping[str, Any], default: str) -> _Problem:
    return _Problem(str(said.get("reason") or default), str(said.get("message") or ""))


def _troubles(pod: Object) -> Iterator[_Problem]:
    """Containers that wait or have ended, init containers first."""
    for status in _containers(pod):
        name = str(status.get("name") or "")
        waits, ended = (at(status, "state", kind) for kind in ("waiting", "terminated"))
        if waits and waits.get("reason") != "PodInitializing":
            found = _of(waits, "waiting")
            yield _Problem(found.reason, found.message, name)
        # An init container that has done its work is terminated too.
        if ended and ended.get("reason") != "Completed":
            found = _of(ended, "Error")
            message = f"container {name} ended with exit code {ended.get('exitCode')}"
            said = f": {found.message.strip()}" if found.message.strip() else ""
            yield _Problem(found.reason, message + said, name)


def _containers(pod: Object) -> Iterator[Mapping[str, Any]]:
    for kind in ("initContainerStatuses", "containerStatuses"):
        yield from at(pod, "status", kind) or ()
