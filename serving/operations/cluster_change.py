"""Whether a change of a RayService is made in place or builds a second cluster."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from serving.operations.snapshot import Object, worker_groups

_SHOWN_FIELDS = 5


class Effect(StrEnum):
    """What the operator makes of a change."""

    NOTHING = "nothing"
    IN_PLACE = "in place"
    NEW_CLUSTER = "new cluster"
    IGNORED = "ignored: upgradeStrategy is None"


@dataclass(frozen=True, slots=True)
class Change:
    """The effect of a change, and the first fields that bring it about."""

    effect: Effect
    fields: tuple[str, ...] = ()


def change_of(before: Object | None, after: Object) -> Change:
    """What a new specification of a RayService will do.

    The operator compares hashes of `rayClusterConfig` without what scaling changes, and lets groups
    be appended. Its later releases leave out more, such as tolerations: here that counts as a new
    cluster, as which release runs is not known, and room for two is the safer thing to ask for.

    Source: kuberay 1.5, ray-operator/controllers/ray/utils/util.go,
    `GenerateHashWithoutReplicasAndWorkersToDelete`; rayservice_controller.go.

    >>> group = {"groupName": "g", "maxReplicas": 1, "template": {"spec": {"a": 1}}}
    >>> old = {"rayClusterConfig": {"workerGroupSpecs": [group]}, "serveConfigV2": "a"}
    >>> more = {"rayClusterConfig": {"workerGroupSpecs": [group | {"maxReplicas": 2}]}}
    >>> change_of(old, {**old, **more}).effect
    <Effect.IN_PLACE: 'in place'>
    >>> other = {"rayClusterConfig": {"workerGroupSpecs": [group | {"template": {"spec": {}}}]}}
    >>> change_of(old, {**old, **other}).fields
    ('rayClusterConfig.workerGroupSpecs.g.template.spec.a',)
    """
    if before is None:
        return Change(Effect.NEW_CLUSTER, ("everything",))
    old, new = (_rebuilt_for(spec.get("rayClusterConfig") or {}) for spec in (before, after))
    known = len(worker_groups(old))
    if len(worker_groups(new)) > known:
        new["workerGroupSpecs"] = new["workerGroupSpecs"][:known]
    if rebuilt := tuple(_differences(old, new, "rayClusterConfig")):
        is_forbidden = (after.get("upgradeStrategy") or {}).get("type") == "None"
        effect = Effect.IGNORED if is_forbidden else Effect.NEW_CLUSTER
        return Change(effect, rebuilt[:_SHOWN_FIELDS])
    changed = tuple(_differences(before, after, ""))
    return Change(Effect.IN_PLACE if changed else Effect.NOTHING, changed[:_SHOWN_FIELDS])


def _rebuilt_for(config: Object) -> dict[str, Any]:
    """What of a cluster's specification an operator may build a new one for."""
    kept: dict[str, Any] = copy.deepcopy(dict(config))
    groups: list[dict[str, Any]] = kept.get("workerGroupSpecs") or []
    for group in groups:
        for field in ("replicas", "minReplicas", "maxReplicas"):
            group.pop(field, None)
        (group.get("scaleStrategy") or {}).pop("workersToDelete", None)
        if not group.get("scaleStrategy"):
            group.pop("scaleStrategy", None)
    return kept


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    """Paths at which two documents differ; elements of lists go by their names where they have."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}".strip("."))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from _differences(a, b, f"{path}.{_element_name(a, index)}")
    elif old != new:
        yield path


def _element_name(element: Any, index: int) -> str:
    if isinstance(element, Mapping):
        return str(element.get("groupName") or element.get("name") or index)
    return str(index)
