"""Who owns which field, and what an apply makes of an object. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kube_api.field_sets import Path, leaves, to_fields_v1, to_text, with_leaves, without
from kube_api.status_bodies import field_conflicts
from kube_api.structural import Schema


@dataclass(frozen=True, slots=True)
class Manager:
    """A client and the way it writes: one that applies and updates is two."""

    name: str
    operation: str
    subresource: str = ""


Owners = dict[Manager, frozenset[Path]]


def after_apply(
    live: Mapping[str, Any],
    owners: Owners,
    *,
    applied: Mapping[str, Any],
    manager: Manager,
    force: bool,
    schema: Schema | None = None,
) -> tuple[dict[str, Any], Owners]:
    """Object and owners after a server-side apply; `schema` is that of a custom kind.

    Raises:
        ApiError: 409, a field has another value and another owner, and `force` is not set.
    """
    wanted, current = leaves(applied, schema), leaves(live, schema)
    changed = {p for p, v in wanted.items() if p in current and current[p] != v}
    others = {each: paths for each, paths in owners.items() if each != manager}
    version = str(applied.get("apiVersion"))
    conflicts = [
        (_shown(each, version), to_text(path))
        for each, paths in others.items()
        for path in sorted(changed & paths)
    ]
    if conflicts and not force:
        raise field_conflicts(conflicts)
    kept = {each: paths - changed for each, paths in others.items()}
    gone = owners.get(manager, frozenset()) - wanted.keys()
    gone -= frozenset().union(*kept.values()) if kept else frozenset()
    result = with_leaves(without(live, gone), wanted)
    return result, _without_empty({**kept, manager: frozenset(wanted)})


def after_update(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    owners: Owners,
    manager: Manager,
    *,
    schema: Schema | None = None,
) -> Owners:
    """Owners after a write that is no apply: who changes a field owns it alone."""
    old, new = leaves(before, schema), leaves(after, schema)
    changed = frozenset(p for p, v in new.items() if p not in old or old[p] != v)
    removed = frozenset(old.keys() - new.keys())
    result = {each: paths - changed - removed for each, paths in owners.items()}
    result[manager] = result.get(manager, frozenset()) | changed
    return _without_empty(result)


def _shown(manager: Manager, api_version: str) -> str:
    """A manager as conflicts name it, but for the time.

    Source: k8s.io/apimachinery, pkg/util/managedfields/internal/conflict.go.
    """
    part = f' with subresource "{manager.subresource}"' if manager.subresource else ""
    using = f"{part} using {api_version}" if manager.operation == "Update" else ""
    return f'"{manager.name}"{using}'


def _without_empty(owners: Owners) -> Owners:
    return {each: paths for each, paths in owners.items() if paths}


def to_managed_fields(owners: Owners, *, api_version: str, time: str) -> list[dict[str, Any]]:
    """`metadata.managedFields`. Its times are those of the object's last change, all of them."""
    return [
        {
            "manager": each.name,
            "operation": each.operation,
            "apiVersion": api_version,
            "time": time,
            "fieldsType": "FieldsV1",
            "fieldsV1": to_fields_v1(paths),
        }
        | ({"subresource": each.subresource} if each.subresource else {})
        for each, paths in sorted(owners.items(), key=lambda item: json.dumps(str(item[0])))
    ]
