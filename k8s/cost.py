"""What a release asks of a cluster, counted from its rendered RayService: `cost_table`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_GIB = 2**30
_MEMORY = {"Ki": 2**10, "Mi": 2**20, "Gi": _GIB, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True, slots=True)
class Cost:
    """What pods ask for together."""

    num_pods: int = 0
    cpus: float = 0.0
    memory_bytes: float = 0.0
    gpus: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.num_pods + other.num_pods,
            self.cpus + other.cpus,
            self.memory_bytes + other.memory_bytes,
            self.gpus + other.gpus,
        )

    def times(self, count: int) -> Cost:
        return Cost(
            self.num_pods * count, self.cpus * count, self.memory_bytes * count, self.gpus * count
        )

    def __str__(self) -> str:
        memory = f"{self.memory_bytes / _GIB:g} GiB"
        return f"{self.num_pods} pods, {self.cpus:g} CPU, {memory}, {self.gpus} GPU"


def cost_table(releases: Mapping[str, Mapping[str, Any]]) -> str:
    """A table in Markdown of what releases ask for: least, most, and beyond it at upgrades.

    Args:
        releases: specification of each RayService, by name.
    """
    rows = [f"| {name} | {' | '.join(_row(spec))} |" for name, spec in releases.items()]
    head = "| values | at least | at most | during an upgrade, also |"
    return "\n".join([head, "|---|---|---|---|", *rows])


def _row(spec: Mapping[str, Any]) -> Iterable[str]:
    cluster = spec["rayClusterConfig"]
    head = _pod(cluster["headGroupSpec"]["template"])
    head += _container(cluster["autoscalerOptions"]["resources"])
    least = most = head
    for group in cluster["workerGroupSpecs"]:
        pod = _pod(group["template"])
        least += pod.times(group["minReplicas"])
        most += pod.times(group["maxReplicas"])
    return str(least), str(most), _surge(spec["upgradeStrategy"])


def _surge(strategy: Mapping[str, Any]) -> str:
    if strategy["type"] == "NewCluster":
        return "as much again"
    if strategy["type"] == "None":
        return "nothing, and no service for a while"
    percent = strategy["clusterUpgradeOptions"]["maxSurgePercent"]
    return f"a head, and about {percent} % of the replicas"


def _pod(template: Mapping[str, Any]) -> Cost:
    """A pod of one main container; its init containers ask for less."""
    (container,) = template["spec"]["containers"]
    return Cost(num_pods=1) + _container(container["resources"])


def _container(resources: Mapping[str, Any]) -> Cost:
    requests = resources["requests"]
    gpus = sum(int(amount) for name, amount in requests.items() if "/" in name)
    return Cost(0, _cpus(requests["cpu"]), _memory_bytes(requests["memory"]), gpus)


def _cpus(quantity: str) -> float:
    """
    >>> _cpus("500m"), _cpus("2")
    (0.5, 2.0)
    """
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def _memory_bytes(quantity: str) -> float:
    """
    >>> _memory_bytes("1.5Gi") / 2**30
    1.5
    """
    for unit, size in _MEMORY.items():
        if quantity.endswith(unit):
            return float(quantity.removesuffix(unit)) * size
    return float(quantity)
