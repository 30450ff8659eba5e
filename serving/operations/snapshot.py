"""What is known of one platform at one time, and the few ways to look into it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.operations.quantities import to_number

Object = Mapping[str, Any]

CLUSTER_LABEL = "ray.io/cluster"
GROUP_LABEL = "ray.io/group"
TYPE_LABEL = "ray.io/node-type"
ORIGIN_LABEL = "ray.io/originated-from-cr-name"
"""Labels that KubeRay gives. Source: kuberay, ray-operator/controllers/ray/utils/constant.go."""

_GPU_NAME = re.compile(r".*gpu|nvidia\.com/mig-\d+g\.\d+gb")


def settings_name(name: str) -> str:
    """The ConfigMap with settings.json."""
    return f"{name}-settings"


def history_name(name: str) -> str:
    """The ConfigMap with what an upgrade replaced."""
    return f"{name}-history"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One platform: its RayService, that one's RayClusters by name, and their pods."""

    name: str
    namespace: str
    service: Object | None
    clusters: Mapping[str, Object] = field(default_factory=dict)
    pods: Sequence[Object] = ()

    @property
    def active(self) -> str:
        """Name of the RayCluster that serves; empty if none does."""
        return _cluster_name(self.service, "activeServiceStatus")

    @property
    def pending(self) -> str:
        """Name of the RayCluster that is being built; empty if none is."""
        return _cluster_name(self.service, "pendingServiceStatus")


def _cluster_name(service: Object | None, part: str) -> str:
    return str(at(service, "status", part, "rayClusterName") or "")


def at(value: Any, *path: str) -> Any:
    """What lies at a path of mappings; `None` where it ends early.

    >>> at({"a": {"b": 1}}, "a", "b"), at({"a": None}, "a", "b")
    (1, None)
    """
    for step in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(step)
    return value


def name_of(value: Object) -> str:
    return str(value["metadata"]["name"])


def labels_of(value: Object) -> Mapping[str, str]:
    """The labels of an object; none is an empty mapping."""
    return at(value, "metadata", "labels") or {}


def condition(value: Object | None, kind: str) -> Object:
    """A condition of an object; empty if it has none of that type."""
    for each in at(value, "status", "conditions") or ():
        if each.get("type") == kind:
            return each  # type: ignore[no-any-return]
    return {}


def num_gpus(pod_spec: Object) -> int:
    """GPUs that a pod asks for, of whatever maker.

    >>> num_gpus({"containers": [{"resources": {"limits": {"nvidia.com/gpu": "2"}}}]})
    2
    """
    total = 0
    for container in pod_spec.get("containers") or ():
        # Of extended resources, limits and requests are the same.
        limits = at(container, "resources", "limits") or at(container, "resources", "requests")
        total += gpus_in(limits or {})
    return total


def gpus_in(resources: Mapping[str, Any]) -> int:
    """GPUs among resources such as a node's `allocatable`, by the names KubeRay counts for Ray.

    Source: kuberay, ray-operator/controllers/ray/utils/resources.go, `IsGPUResourceKey`.

    >>> gpus_in({"amd.com/gpu": 2, "nvidia.com/mig-1g.10gb": "4", "cpu": 8, "nvidia.com/gpu.x": 1})
    6
    """
    return sum(
        round(to_number(amount)) for name, amount in resources.items()
        if _GPU_NAME.fullmatch(name)
    )  # fmt: skip


def num_cpus(pod_spec: Object) -> float:
    """CPU cores that the first container, which is Ray's, asks for."""
    for container in pod_spec.get("containers") or ():
        for kind in ("requests", "limits"):
            if amount := at(container, "resources", kind, "cpu"):
                return to_number(amount)
        break
    return 0.0


def worker_groups(config: Object | None) -> Sequence[Object]:
    """The worker groups of a RayCluster's specification."""
    return (config or {}).get("workerGroupSpecs") or ()


def templates(config: Object) -> Iterator[tuple[str, Object]]:
    """Each group's name and pod template, the head's first."""
    yield "head", at(config, "headGroupSpec", "template") or {}
    for group in worker_groups(config):
        yield group["groupName"], group.get("template") or {}


def secret_name(snapshot: Snapshot) -> str:
    """The Secret with the tokens and keys: the one that the pods mount, else the chart's."""
    config = at(snapshot.service, "spec", "rayClusterConfig") or {}
    for _, template in templates(config):
        for volume in at(template, "spec", "volumes") or ():
            for source in at(volume, "projected", "sources") or ():
                items = at(source, "secret", "items") or ()
                if any(each.get("key") == "keys.json" for each in items):
                    return str(source["secret"]["name"])
    return f"{snapshot.name}-secrets"
