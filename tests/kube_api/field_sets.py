"""Which fields an object sets, as paths; the arithmetic of server-side apply. Pure.

A path is a tuple of steps: `f:NAME` into a mapping, `k:{...}` to the element with these keys of a
list that the schema calls a map. Other lists are atomic, as the API server has most of them.
Source: sigs.k8s.io/structured-merge-diff, fieldpath; kubernetes.io, Server-Side Apply.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kube_api.structural import Schema, field_schema

Path = tuple[str, ...]

_KEYS = {
    "conditions": ("type",),
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "imagePullSecrets": ("name",),
    "ownerReferences": ("uid",),
}
"""Lists of built-in kinds that are maps, and their keys."""

_IDENTITY = {("f:apiVersion",), ("f:kind",)}
_SERVER_OWNED = (
    "name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp",
    "managedFields", "selfLink", "deletionTimestamp",
)  # fmt: skip


def leaves(value: Any, schema: Schema | None = None) -> dict[Path, Any]:
    """Every field that an object sets and its value. Custom kinds have a schema that says which
    lists and mappings are one field.

    >>> leaves({"data": {"a": "1"}, "spec": {"x": [1, 2], "y": {}}})
    {('f:data', 'f:a'): '1', ('f:spec', 'f:x'): [1, 2], ('f:spec', 'f:y'): {}}
    """
    found = dict(_leaves(value, (), schema))
    metadata = {("f:metadata", f"f:{name}") for name in _SERVER_OWNED}
    return {path: each for path, each in found.items() if path[:2] not in metadata | _IDENTITY}


def _leaves(value: Any, path: Path, schema: Schema | None) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, Mapping) and value and not _is_atomic(schema):
        for name, below in value.items():
            inner = None if (path, name) == ((), "metadata") else _inner(schema, name)
            yield from _leaves(below, (*path, f"f:{name}"), inner)
    elif keys := _list_keys(value, path, schema):
        for element in value:
            step = _element_step(element, keys, schema)
            yield (*path, step), None  # that the element is there
            yield from _leaves(element, (*path, step), (schema or {}).get("items"))
    else:
        yield path, value


def _is_atomic(schema: Schema | None) -> bool:
    return schema is not None and schema.get("x-kubernetes-map-type") == "atomic"


def _inner(schema: Schema | None, name: str) -> Schema | None:
    return None if schema is None else field_schema(schema, name) or {}


def _list_keys(value: Any, path: Path, schema: Schema | None) -> tuple[str, ...]:
    """The keys of a list that is a map here; nothing for one that is not."""
    if not isinstance(value, list) or not value:
        return ()
    if schema is not None:
        is_map = schema.get("x-kubernetes-list-type") == "map"
        return tuple(schema["x-kubernetes-list-map-keys"]) if is_map else ()
    keys = _KEYS.get(path[-1].removeprefix("f:"), ()) if path else ()
    is_map = all(isinstance(each, Mapping) and all(key in each for key in keys) for each in value)
    # Inside an atomic list nothing is reached, so what is below it never gets here.
    return keys if is_map else ()


def _element_step(element: Mapping[str, Any], keys: Iterable[str], schema: Schema | None) -> str:
    """The step to an element. A key that is left out has the schema's default, as have ports."""
    declared = ((schema or {}).get("items") or {}).get("properties") or {}
    values = {
        key: element[key] if key in element else declared[key]["default"]
        for key in keys if key in element or "default" in declared.get(key, {})
    }  # fmt: skip
    return "k:" + json.dumps(values, separators=(",", ":"))


def with_leaves(target: Mapping[str, Any], values: Mapping[Path, Any]) -> dict[str, Any]:
    """The object with these fields set."""
    changed = copy.deepcopy(dict(target))
    for path in sorted(values, key=len):
        _set(changed, path, copy.deepcopy(values[path]))
    return changed


def without(target: Mapping[str, Any], paths: Iterable[Path]) -> dict[str, Any]:
    """The object without these fields, and without the mappings that this leaves empty."""
    changed = copy.deepcopy(dict(target))
    for path in sorted(paths, key=len, reverse=True):
        _remove(changed, path)
    return changed


def _set(node: Any, path: Path, value: Any) -> None:
    for index, step in enumerate(path[:-1]):
        node = _enter(node, step, makes_list=path[index + 1].startswith("k:"))
    if path[-1].startswith("k:"):
        _enter(node, path[-1], makes_list=False)
    else:
        node[path[-1].removeprefix("f:")] = value


def _enter(node: Any, step: str, *, makes_list: bool) -> Any:
    if step.startswith("f:"):
        below = node.get(step[2:])
        if not isinstance(below, list if makes_list else dict):
            node[step[2:]] = below = [] if makes_list else {}
        return below
    wanted = json.loads(step[2:])
    for element in node:
        if wanted.items() <= element.items():
            return element
    node.append(wanted)
    return wanted


def _remove(node: Any, path: Path) -> None:
    step, rest = path[0], path[1:]
    if step.startswith("f:"):
        name = step[2:]
        if name not in node:
            return
        if rest:
            _remove(node[name], rest)
        if not rest or node[name] in ({}, []):
            del node[name]
        return
    wanted = json.loads(step[2:])
    for element in [each for each in node if wanted.items() <= each.items()]:
        if rest:
            _remove(element, rest)
        if not rest or not element:
            node.remove(element)


def to_fields_v1(paths: Iterable[Path]) -> dict[str, Any]:
    """The form in which `metadata.managedFields` has them.

    >>> to_fields_v1([("f:data", "f:a"), ("f:data", "f:b")])
    {'f:data': {'f:a': {}, 'f:b': {}}}
    """
    tree: dict[str, Any] = {}
    for path in sorted(paths):
        node = tree
        for step in path:
            node = node.setdefault(step, {})
        if path[-1].startswith("k:"):
            node["."] = {}
    return tree


def to_text(path: Path) -> str:
    """A path as error messages have it: `.spec.containers[name="main"].image`."""
    text = ""
    for step in path:
        if step.startswith("f:"):
            text += f".{step[2:]}"
        else:
            keys = json.loads(step[2:])
            text += f"[{','.join(f'{k}={json.dumps(v)}' for k, v in keys.items())}]"
    return text
