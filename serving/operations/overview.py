"""The document that `galerne k8s status` shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from serving.operations.pods import UNSCHEDULABLE, view_pods
from serving.operations.readiness import assess
from serving.operations.snapshot import Object, Snapshot, at, name_of, worker_groups


def compose_overview(snapshot: Snapshot) -> dict[str, Any]:
    """The whole view."""
    readiness = assess(snapshot)
    pods = view_pods(snapshot.pods)
    waiting = [pod.name for pod in pods if pod.reason == UNSCHEDULABLE and pod.gpus]
    return {
        "name": snapshot.name,
        "namespace": snapshot.namespace,
        "phase": readiness.phase.value,
        "reason": readiness.reason,
        "conditions": [_condition(each) for each in at(snapshot.service, "status", "conditions")
                       or ()],
        "clusters": [_cluster(snapshot, cluster) for cluster in snapshot.clusters.values()],
        "pods": [dataclasses.asdict(pod) for pod in pods],
        "applications": list(_applications(snapshot)),
        "pending_gpu_pods": waiting,
    }  # fmt: skip


def _condition(found: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("type", "status", "reason", "message", "lastTransitionTime")
    return {key: found.get(key, "") for key in keys}


def _cluster(snapshot: Snapshot, cluster: Object) -> dict[str, Any]:
    name = name_of(cluster)
    roles = {snapshot.active: "active", snapshot.pending: "pending"}
    return {
        "name": name,
        "role": roles.get(name, "old"),
        "state": at(cluster, "status", "state") or "",
        "groups": [
            {
                "name": group["groupName"],
                "replicas": group.get("replicas"),
                "min": group.get("minReplicas"),
                "max": group.get("maxReplicas"),
            }
            for group in worker_groups(cluster.get("spec"))
        ],
    }


def _applications(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    for role in ("active", "pending"):
        path = ("status", f"{role}ServiceStatus", "applicationStatuses")
        for name, status in (at(snapshot.service, *path) or {}).items():
            deployments = status.get("serveDeploymentStatuses") or {}
            yield {
                "name": name,
                "cluster": role,
                "status": status.get("status", ""),
                "message": status.get("message", ""),
                "deployments": {
                    each: {"status": found.get("status", ""), "message": found.get("message", "")}
                    for each, found in deployments.items()
                },
            }
