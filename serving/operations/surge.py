"""Whether a second cluster fits beside the first: free GPUs, node by node."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serving.operations.snapshot import (
    Object,
    at,
    condition,
    gpus_in,
    name_of,
    num_gpus,
    worker_groups,
)


@dataclass(frozen=True, slots=True)
class Surge:
    """GPU pods that a new cluster starts with, and those of them that find no node."""

    num_pods: int
    num_gpus: int
    homeless: tuple[str, ...]
    free_gpus: int

    @property
    def fits(self) -> bool:
        return not self.homeless


def plan_surge(
    spec: Object, active: Object | None, *, nodes: Sequence[Object], pods: Sequence[Object]
) -> Surge:
    """Whether a new cluster's GPU pods fit what nodes have free now.

    A new cluster needs what the active one has, no more: as many pods of each group as that one
    runs, within the new bounds; with an incremental upgrade, `maxSurgePercent` of them at a time.
    The largest are placed first, each on the fullest node with room; node selectors are kept to,
    other constraints of scheduling are not looked at.

    Args:
        spec: the new specification of the RayService.
        active: the RayCluster that serves.
        nodes: all nodes of the cluster.
        pods: all pods of the cluster, of whatever namespace.
    """
    free = free_gpus(nodes, pods)
    labels = {name_of(node): at(node, "metadata", "labels") or {} for node in nodes}
    wanted = sorted(_gpu_pods(spec, active), key=lambda each: -each[1])
    total, homeless = sum(free.values()), []
    for group, gpus, selector in wanted:
        fitting = [
            (left, node) for node, left in free.items()
            if left >= gpus and selector.items() <= labels[node].items()
        ]  # fmt: skip
        if fitting:
            free[min(fitting)[1]] -= gpus
        else:
            homeless.append(f"{group} ({gpus} GPU)")
    return Surge(len(wanted), sum(gpus for _, gpus, _ in wanted), tuple(homeless), total)


def free_gpus(nodes: Sequence[Object], pods: Sequence[Object]) -> dict[str, int]:
    """GPUs of each node that takes pods and is ready, without those that its pods ask for."""
    used: dict[str, int] = defaultdict(int)
    for pod in pods:
        if at(pod, "status", "phase") not in ("Succeeded", "Failed"):
            used[str(at(pod, "spec", "nodeName") or "")] += num_gpus(pod.get("spec") or {})
    return {
        name_of(node): gpus_in(at(node, "status", "allocatable") or {}) - used[name_of(node)]
        for node in nodes
        if not at(node, "spec", "unschedulable")
        and condition(node, "Ready").get("status") == "True"
    }


def _surge_ratio(spec: Object) -> float:
    """Share of the new cluster that comes up before the old one shrinks.

    >>> options = {"maxSurgePercent": 25}
    >>> _surge_ratio({"upgradeStrategy": {"type": "NewClusterWithIncrementalUpgrade",
    ...     "clusterUpgradeOptions": options}})
    0.25
    """
    strategy = spec.get("upgradeStrategy") or {}
    if strategy.get("type") != "NewClusterWithIncrementalUpgrade":
        return 1.0
    percent: float = (strategy.get("clusterUpgradeOptions") or {}).get("maxSurgePercent", 100)
    return percent / 100


def _gpu_pods(
    service_spec: Object, active: Object | None
) -> list[tuple[str, int, Mapping[str, str]]]:
    """Group, GPUs and node selector of each GPU pod that the new cluster starts with."""
    running = {
        group["groupName"]: group.get("replicas") or 0
        for group in worker_groups(at(active, "spec"))
    }
    found: list[tuple[str, int, Mapping[str, str]]] = []
    ratio = _surge_ratio(service_spec)
    for group in worker_groups(service_spec.get("rayClusterConfig")):
        spec = at(group, "template", "spec") or {}
        wanted = running.get(group["groupName"], group.get("replicas") or 0)
        count = min(max(wanted, group.get("minReplicas") or 0), group.get("maxReplicas") or wanted)
        if gpus := num_gpus(spec):
            row = (group["groupName"], gpus, spec.get("nodeSelector") or {})
            found += [row] * (math.ceil(count * ratio) * (group.get("numOfHosts") or 1))
    return found
