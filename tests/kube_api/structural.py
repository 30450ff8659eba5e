"""What a CRD's schema makes of an object: unknown fields go, defaults come. Pure.

Source: kubernetes.io, Extend the Kubernetes API with CustomResourceDefinitions, "Field pruning" and
"Defaulting"; k8s.io/apiextensions-apiserver, pkg/apiserver/schema.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

_OF_EVERY_OBJECT = {"apiVersion", "kind", "metadata"}


def pruned(value: Mapping[str, Any], schema: Schema) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The object with the fields that the schema declares, and the paths of those that went.

    >>> schema = {"properties": {"spec": {"properties": {"size": {"type": "integer"}}}}}
    >>> pruned({"kind": "Box", "spec": {"size": 1, "colour": "red"}}, schema)
    ({'kind': 'Box', 'spec': {'size': 1}}, ('spec.colour',))
    """
    kept = copy.deepcopy(dict(value))
    outside = {key: kept.pop(key) for key in _OF_EVERY_OBJECT & kept.keys()}
    gone = tuple(_prune(kept, schema, ""))
    return {
        key: outside.get(key, kept.get(key)) for key in value if key in outside or key in kept
    }, gone


def _prune(value: Any, schema: Schema, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for index, element in enumerate(value):
            yield from _prune(element, schema.get("items") or {}, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key in list(value):
            below = field_schema(schema, key)
            inner = f"{path}.{key}".strip(".")
            if below is not None:
                yield from _prune(value[key], below, inner)
            elif not schema.get("x-kubernetes-preserve-unknown-fields"):
                del value[key]
                yield inner


def field_schema(schema: Schema, key: str) -> Schema | None:
    """The schema of a field; `None` if it is not declared."""
    if key in (schema.get("properties") or {}):
        found: Schema = schema["properties"][key]
        return found
    others = schema.get("additionalProperties")
    if isinstance(others, Mapping):
        return others
    return {"x-kubernetes-preserve-unknown-fields": True} if others else None


def defaulted(value: Any, schema: Schema) -> Any:
    """A copy with the schema's defaults where a field is absent, or null and may not be.

    A default inside an object counts only where the object is there.

    >>> size = {"type": "integer", "default": 3}
    >>> schema = {"properties": {"spec": {"type": "object", "properties": {"size": size}}}}
    >>> defaulted({"spec": {"size": None}}, schema), defaulted({}, schema)
    ({'spec': {'size': 3}}, {})
    """
    if isinstance(value, list):
        return [defaulted(each, schema.get("items") or {}) for each in value]
    if not isinstance(value, Mapping):
        return value
    found = dict(value)
    for key, below in (schema.get("properties") or {}).items():
        is_null = key in found and found[key] is None and not below.get("nullable")
        if "default" in below and (key not in found or is_null):
            found[key] = copy.deepcopy(below["default"])
        elif is_null:
            del found[key]
    return {key: defaulted(each, field_schema(schema, key) or {}) for key, each in found.items()}
