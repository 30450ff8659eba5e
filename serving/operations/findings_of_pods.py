"""Complaints about pods: not placed, not pulled, not alive, not ready, too little shared memory."""

from __future__ import annotations

from collections.abc import Iterator

from serving.operations.pods import HOPELESS, PULL_REASONS, UNSCHEDULABLE, PodView, view_pods
from serving.operations.quantities import to_number, to_text
from serving.operations.readiness import declared_applications
from serving.operations.snapshot import Object, Snapshot, at, num_gpus, templates, worker_groups
from serving.operations.survey import Finding, Survey, error, warning

_SHM = "/dev/shm"  # noqa: S108 (a path in the pod)
_LEAST_SHM_BYTES_PER_GPU = 1024**3
"""NCCL takes tens of MiB for each pair of GPUs, vLLM's message queues up to 24 MiB a reader, Ray's
object store what it is told to. Below this, hangs without a message have been seen."""


def _pods(survey: Survey) -> tuple[PodView, ...]:
    return view_pods(survey.snapshot.pods)


def unschedulable(survey: Survey) -> Iterator[Finding]:
    """Pods that no node takes."""
    for pod in _pods(survey):
        if pod.reason != UNSCHEDULABLE:
            continue
        gpus = f" ({pod.gpus} GPU)" if pod.gpus else ""
        grows = any(
            each.get("reason") == "NotTriggerScaleUp"
            and at(each, "involvedObject", "name") == pod.name
            for each in survey.events
        )
        no_growth = "; the node autoscaler says that no node pool would help" if grows else ""
        yield error(
            "pod_unschedulable",
            f"pod {pod.name}{gpus} has no node",
            why=f"{pod.message or 'the scheduler gives no reason'}{no_growth}",
            mend="add nodes or raise the node pool's maximum; compare the pod's requests, node "
            "selector and tolerations with the nodes: kubectl describe pod " + pod.name,
        )


def image_pulls(survey: Survey) -> Iterator[Finding]:
    """Images that cannot be had."""
    for pod in _pods(survey):
        if pod.reason in PULL_REASONS:
            yield error(
                "image_not_pulled",
                f"pod {pod.name} cannot get its image",
                why=f"{pod.reason}: {pod.message}",
                mend="check image.repository and tag, and image.pullSecrets for a private "
                "registry; a node without a route to the registry needs a mirror",
            )


def crashes(survey: Survey) -> Iterator[Finding]:
    """Containers that do not start, or that end."""
    for pod in _pods(survey):
        if pod.reason in HOPELESS - PULL_REASONS:
            config = pod.reason == "CreateContainerConfigError"
            # What ended for good has its log still; what was started again has an earlier one.
            earlier = " --previous" if pod.reason == "CrashLoopBackOff" else ""
            yield error(
                "container_fails",
                f"pod {pod.name} does not stay up ({pod.restarts} restarts)",
                why=f"{pod.reason}: {pod.message}".removesuffix(": "),
                mend="a Secret or ConfigMap that it names is missing" if config else
                f"kubectl logs {pod.name} -c {pod.container or 'ray'}{earlier} says why",
            )  # fmt: skip


def probes(survey: Survey) -> Iterator[Finding]:
    """Pods that run and are not ready, and the probe that says so."""
    said = {
        str(at(each, "involvedObject", "name")): str(each.get("message") or "")
        for each in sorted(survey.events, key=_time_of)
        if each.get("reason") == "Unhealthy"
    }
    all_run = _all_applications_run(survey.snapshot)
    for pod in _pods(survey):
        if pod.ready or pod.phase != "Running" or pod.name not in said:
            continue
        message = said[pod.name]
        has_no_wget = "wget" in message and "not found" in message
        # Serve has no proxy on a worker without replicas: it is never ready, and that is normal.
        is_worker = pod.group != "head" and not has_no_wget
        if is_worker and all_run:
            continue
        complain = warning if is_worker else error
        yield complain(
            "probe_fails",
            f"pod {pod.name} runs and is not ready",
            why=message,
            mend="the image needs wget, which KubeRay's probes run" if has_no_wget else
            "a worker is ready when Serve's proxy on it answers /-/healthz on port 8000: see the "
            "log of the proxy, and whether a NetworkPolicy forbids the pod to reach the head",
        )  # fmt: skip


def _all_applications_run(snapshot: Snapshot) -> bool:
    """Whether one cluster serves all that the specification asks for, and none is being built."""
    statuses = at(snapshot.service, "status", "activeServiceStatus", "applicationStatuses")
    return not snapshot.pending and all(
        at(statuses, name, "status") == "RUNNING" for name in declared_applications(snapshot)
    )


def _time_of(event: Object) -> str:
    """When an event was last seen; RFC 3339 in UTC sorts as text."""
    last = event.get("lastTimestamp") or at(event, "series", "lastObservedTime")
    return str(last or event.get("eventTime") or at(event, "metadata", "creationTimestamp") or "")


def shared_memory(survey: Survey) -> Iterator[Finding]:
    """GPU groups whose /dev/shm is too small, or may be."""
    config = at(survey.snapshot.service, "spec", "rayClusterConfig") or {}
    groups = {group["groupName"] for group in worker_groups(config)}
    for group, template in templates(config):
        gpus = num_gpus(template.get("spec") or {})
        if group not in groups or gpus < 2:
            continue  # One GPU talks to nobody.
        size = _shm_bytes(template.get("spec") or {})
        least = _LEAST_SHM_BYTES_PER_GPU * gpus
        if size is not None and size < least:
            yield warning(
                "shm_small",
                f"worker group {group} has {to_text(size)} of /dev/shm for {gpus} GPUs",
                why="NCCL and vLLM's queues between processes live there; when it is full they "
                "hang, or die with SIGBUS",
                mend=f"give the pool a shmSize of {to_text(least)} or more, within the pod's "
                "memory; without a size KubeRay takes the pod's memory",
            )


def _shm_bytes(spec: object) -> float | None:
    """Size of a pod's /dev/shm. `None`: KubeRay mounts one as large as the pod's memory."""
    containers = at(spec, "containers") or [{}]
    mounts = at(containers[0], "volumeMounts") or ()
    volume = next((each["name"] for each in mounts if each.get("mountPath") == _SHM), None)
    if volume is None:
        return None
    found: Object = next((each for each in at(spec, "volumes") or () if each["name"] == volume), {})
    limit = at(found, "emptyDir", "sizeLimit")
    if at(found, "emptyDir", "medium") != "Memory":
        return 0.0
    memory = at(containers[0], "resources", "limits", "memory")
    return to_number(limit or memory) or None
