"""Merge patch (RFC 7386) and JSON patch (RFC 6902). Pure: what is given is not changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any


def merge_patched(target: Any, patch: Any) -> Any:
    """The target after a merge patch.

    >>> merge_patched({"a": 1, "b": {"c": 2, "d": 3}}, {"a": None, "b": {"c": 4}, "e": [5]})
    {'b': {'c': 4, 'd': 3}, 'e': [5]}
    """
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    merged = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patched(merged.get(key), value)
    return copy.deepcopy(merged)


def json_patched(target: Any, operations: Sequence[Mapping[str, Any]]) -> Any:
    """The target after a JSON patch.

    Raises:
        ValueError: an operation does not fit, or a `test` fails.

    >>> json_patched({"a": [1]}, [{"op": "add", "path": "/a/-", "value": 2}])
    {'a': [1, 2]}
    """
    root = {"": copy.deepcopy(target)}
    for operation in operations:
        try:
            _apply(root, operation)
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"{operation.get('op')} at {operation.get('path')!r}") from error
    return root[""]


def _apply(root: dict[str, Any], operation: Mapping[str, Any]) -> None:
    op, (parent, key) = operation["op"], _locate(root, operation["path"])
    if op == "test":
        if parent[key] != operation["value"]:
            raise ValueError(f"testing value {operation['path']} failed")
    elif op == "remove":
        del parent[key]
    elif op in ("copy", "move"):
        source, source_key = _locate(root, operation["from"])
        value = copy.deepcopy(source[source_key])
        if op == "move":
            del source[source_key]
        _put(parent, key, value, replace=False)
    elif op in ("add", "replace"):
        _put(parent, key, copy.deepcopy(operation["value"]), replace=op == "replace")
    else:
        raise ValueError(f"unknown operation {op!r}")


def _locate(root: Any, pointer: str) -> tuple[Any, Any]:
    """Container and key that a JSON pointer names."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")]
    node = root
    for part in parts[:-1]:
        node = node[_key(node, part)]
    return node, _key(node, parts[-1])


def _key(node: Any, part: str) -> Any:
    return part if isinstance(node, dict) or part == "-" else int(part)


def _put(parent: Any, key: Any, value: Any, *, replace: bool) -> None:
    if isinstance(parent, dict):
        if replace and key not in parent:
            raise KeyError(key)
        parent[key] = value
    elif replace:
        parent[key] = value
    else:
        parent.insert(len(parent) if key == "-" else key, value)
