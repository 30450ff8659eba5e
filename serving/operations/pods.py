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
HOPELESS = PULL_REASONS | {
    "CrashLoopBackOff", "CreateContainerConfigError", "CreateContainerError",
    "RunContainerError",
}  # fmt: skip
"""Reasons that time alone does not mend. Source: kubernetes, pkg/kubelet/images/types.go and
pkg/kubelet/container/sync_result.go."""


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod at a glance. `reason` is empty while it is ready."""

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


def view_pod(pod: Object) -> PodView:
    """A pod at a glance."""
    labels = labels_of(pod)
    reason, message = _problem(pod)
    is_head = labels.get(TYPE_LABEL) == "head"
    return PodView(
        name=name_of(pod),
        cluster=labels.get(CLUSTER_LABEL, ""),
        group="head" if is_head else labels.get(GROUP_LABEL, ""),
        node=str(at(pod, "spec", "nodeName") or ""),
        phase=str(at(pod, "status", "phase") or "Pending"),
        ready=not reason,
        reason=reason,
        message=message,
        restarts=sum(each.get("restartCount", 0) for each in _containers(pod)),
        gpus=num_gpus(pod.get("spec") or {}),
    )


def view_pods(pods: Iterable[Object]) -> tuple[PodView, ...]:
    """Pods at a glance: heads first, then by group and name."""
    views = (view_pod(pod) for pod in pods)
    return tuple(sorted(views, key=lambda v: (v.cluster, v.group != "head", v.group, v.name)))


def _problem(pod: Object) -> tuple[str, str]:
    """Reason and message of what keeps a pod from being ready; the root of it, if it is known."""
    if at(pod, "metadata", "deletionTimestamp"):
        return "Terminating", ""
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return str(scheduled.get("reason") or UNSCHEDULABLE), str(scheduled.get("message") or "")
    if at(pod, "status", "phase") in ("Failed", "Succeeded"):
        status: Mapping[str, Any] = pod["status"]
        return str(status.get("reason") or status["phase"]), str(status.get("message") or "")
    for status in _containers(pod):
        for kind in ("waiting", "terminated"):
            state = at(status, "state", kind)
            # An init container that has done its work is terminated too.
            if state and state.get("reason") not in ("Completed", "PodInitializing"):
                return str(state.get("reason") or kind), str(state.get("message") or "")
    ready = condition(pod, "Ready")
    if ready.get("status") == "True":
        return "", ""
    return str(ready.get("reason") or "Pending"), str(ready.get("message") or "")


def _containers(pod: Object) -> Iterator[Mapping[str, Any]]:
    for kind in ("initContainerStatuses", "containerStatuses"):
        yield from at(pod, "status", kind) or ()
