"""Whether a second cluster fits beside the first: free GPUs, node by node, and quotas."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from serving.operations.placing import is_open, takes
from serving.operations.quotas import exceeded
from serving.operations.snapshot import Object, at, gpus_in, name_of, num_gpus, worker_groups


@dataclass(frozen=True, slots=True)
class Surge:
    """GPU pods that a new cluster starts with, those of them that find no node, and what of the
    new cluster the namespace's quotas do not grant."""

    num_pods: int
    num_gpus: int
    homeless: tuple[str, ...]
    free_gpus: int
    over_quota: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return not self.homeless and not self.over_quota


def plan_surge(
    spec: Object,
    active: Object | None,
    *,
    nodes: Sequence[Object],
    pods: Sequence[Object],
    quotas: Sequence[Object] = (),
) -> Surge:
    """Whether a new cluster's GPU pods fit what nodes have free now, and all its pods the quotas.

    A new cluster needs what the active one has, no more: as many pods of each group as that one
    runs, within the new bounds; with an incremental upgrade, `maxSurgePercent` of them at a time.
    The largest are placed first, each on the fullest node that takes it and has room.

    Args:
        spec: the new specification of the RayService.
        active: the RayCluster that serves.
        nodes: all nodes of the cluster.
        pods: all pods of the cluster, of whatever namespace.
        quotas: the ResourceQuotas of the platform's namespace.
    """
    free = free_gpus(nodes, pods)
    open_nodes = [node for node in nodes if name_of(node) in free]
    workers = _worker_pods(spec, active)
    wanted = sorted((each for each in workers if each.gpus), key=lambda each: -each.gpus)
    total, homeless = sum(free.values()), []
    for pod in wanted:
        fitting = [
            (free[name_of(node)], name_of(node)) for node in open_nodes
            if free[name_of(node)] >= pod.gpus and takes(node, pod.spec)
        ]  # fmt: skip
        if fitting:
            free[min(fitting)[1]] -= pod.gpus
        else:
            homeless.append(f"{pod.group} ({pod.gpus} GPU)")
    head = at(spec, "rayClusterConfig", "headGroupSpec", "template", "spec") or {}
    over_quota = exceeded(quotas, [head, *(each.spec for each in workers)])
    num_gpus = sum(each.gpus for each in wanted)
    return Surge(len(wanted), num_gpus, tuple(homeless), total, over_quota)


def free_gpus(nodes: Sequence[Object], pods: Sequence[Object]) -> dict[str, int]:
    """GPUs of each node that is open to pods, without those that its pods ask for."""
    used: dict[str, int] = defaultdict(int)
    for pod in pods:
        if at(pod, "status", "phase") not in ("Succeeded", "Failed"):
            used[str(at(pod, "spec", "nodeName") or "")] += num_gpus(pod.get("spec") or {})
    return {
        name_of(node): gpus_in(at(node, "status", "allocatable") or {}) - used[name_of(node)]
        for node in nodes
        if is_open(node)
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


@dataclass(frozen=True, slots=True)
class _WorkerPod:
    group: str
    spec: Object

    @property
    def gpus(self) -> int:
        return num_gpus(self.spec)


def _worker_pods(service_spec: Object, active: Object | None) -> list[_WorkerPod]:
    """The worker pods that the new cluster starts with."""
    running = {
        group["groupName"]: group.get("replicas") or 0
        for group in worker_groups(at(active, "spec"))
    }
    found: list[_WorkerPod] = []
    ratio = _surge_ratio(service_spec)
    for group in worker_groups(service_spec.get("rayClusterConfig")):
        wanted = running.get(group["groupName"], group.get("replicas") or 0)
        count = min(max(wanted, group.get("minReplicas") or 0), group.get("maxReplicas") or wanted)
        pod = _WorkerPod(group["groupName"], at(group, "template", "spec") or {})
        found += [pod] * (math.ceil(count * ratio) * (group.get("numOfHosts") or 1))
    return found
