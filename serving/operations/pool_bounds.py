"""How many pods of a worker group its models may need."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from serving.operations.snapshot import Object, num_cpus, num_gpus

_ROUNDING = 6


@dataclass(frozen=True, slots=True)
class Bounds:
    """Fewest and most: replicas of a model, or pods of a group."""

    least: int
    most: int


def replica_bounds(model: Mapping[str, Any]) -> Bounds:
    """What a model's settings allow.

    >>> replica_bounds({"replicas": 2}), replica_bounds({"scaling": {"max_replicas": 4}})
    (Bounds(least=2, most=2), Bounds(least=1, most=4))
    """
    scaling = model.get("scaling")
    if scaling is None:
        return Bounds(model.get("replicas", 1), model.get("replicas", 1))
    return Bounds(scaling.get("min_replicas", 1), scaling["max_replicas"])


def models_of(group: Object, settings: Mapping[str, Any]) -> Iterator[tuple[str, Object]]:
    """The models that run on a worker group: those of the pool of its name."""
    for name, model in settings["models"].items():
        if (model.get("resources") or {}).get("pool") == group["groupName"]:
            yield name, model


def pods_needed(group: Object, settings: Mapping[str, Any]) -> Bounds:
    """Pods that all models of a group need together, at their fewest and at their most."""
    least = most = 0.0
    for _, model in models_of(group, settings):
        share, bounds = replica_share(group, model), replica_bounds(model)
        least, most = least + share * bounds.least, most + share * bounds.most
    return Bounds(_up(least), _up(most))


def pods_for(group: Object, model: Object) -> int:
    """Pods that one model needs at its most."""
    return _up(replica_share(group, model) * replica_bounds(model).most)


def replica_share(group: Object, model: Object) -> float:
    """The share of a pod that a replica takes: of its GPUs, those left out that are no multiple of
    a tensor-parallel group, or of its CPU cores, whichever is more. The chart counts the same way.

    >>> spec = {"containers": [{"resources": {"limits": {"nvidia.com/gpu": 4, "cpu": 16}}}]}
    >>> replica_share({"template": {"spec": spec}}, {"engine": {"tensor_parallel_size": 2}})
    0.5
    """
    spec = (group.get("template") or {}).get("spec") or {}
    engine, resources = model.get("engine") or {}, model.get("resources") or {}
    tensor = engine.get("tensor_parallel_size", 1)
    stages = engine.get("pipeline_parallel_size", 1)
    cores, gpus = num_cpus(spec), num_gpus(spec)
    num_bundles = 1 if stages == 1 else tensor * stages
    on_cpu = resources.get("device", "gpu") == "cpu"
    asked = resources.get("num_cpus", 1.0) * (1 if on_cpu else num_bundles)
    cpu_share = asked / cores if cores else 0.0
    usable = gpus - gpus % tensor
    if on_cpu or not usable:
        return float(cpu_share)
    return float(max(tensor * stages / usable, cpu_share))


def _up(pods: float) -> int:
    """The next whole number, sums of shares being a little off."""
    return math.ceil(round(pods, _ROUNDING))
