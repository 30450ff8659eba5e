"""Whether an object is one the API would take: unknown fields and wrong types.

Built-in kinds are checked with `kubernetes-validate` where it is installed; custom ones with the
schemas of their CRDs where `KUBERAY_CRDS` (or `../shared/crds` beside the repository) has
them, closed: what they do not declare is unknown. CEL rules are not run. Without either, anything
is taken.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kube_api.resource_types import ResourceType

CRDS = Path(os.environ.get("KUBERAY_CRDS") or Path(__file__).parents[3] / "shared" / "crds")
HAS_CRDS = CRDS.is_dir()
HAS_BUILT_IN = importlib.util.find_spec("kubernetes_validate") is not None
_BUILT_IN_VERSION = "1.36"


@dataclass(frozen=True, slots=True)
class Complaints:
    """What is wrong with an object: fields nobody knows; fields of a wrong type, or with a wrong
    value, and why."""

    unknown: tuple[str, ...] = ()
    mistyped: tuple[tuple[str, str], ...] = ()
    invalid: tuple[tuple[str, str], ...] = ()


def complaints(resource: ResourceType, value: Mapping[str, Any]) -> Complaints:
    """What the schema of a kind says against an object."""
    found: list[tuple[str, str]] = []
    mistyped: list[tuple[str, str]] = []
    unknown: list[str] = []
    for error in _validator(resource).iter_errors(_checked_part(value)):
        path = ".".join(str(part) for part in error.absolute_path)
        if error.validator == "additionalProperties":
            known = error.schema.get("properties", {})
            unknown += [f"{path}.{key}".strip(".") for key in error.instance if key not in known]
        elif error.validator == "type":
            mistyped.append((path, f"Invalid value: {error.message}"))
        else:
            found.append((path, f"Invalid value: {error.message}"))
    return Complaints(tuple(unknown), tuple(mistyped), tuple(found))


def _checked_part(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: each for key, each in value.items() if key != "metadata"}


@cache
def _validator(resource: ResourceType) -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(_schema(resource))


def _schema(resource: ResourceType) -> dict[str, Any]:
    file = CRDS / f"{resource.plural}.{resource.version}.json"
    if resource.group == "ray.io" and file.exists():
        return _closed(json.loads(file.read_text())["openAPIV3Schema"])
    return {}


def _closed(schema: Any) -> Any:
    """An OpenAPI schema that refuses what it does not declare, as JSON Schema."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return copy.deepcopy(schema)
    closed = {key: _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema:
        closed["properties"] = {k: _closed(v) for k, v in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        closed["type"] = ["integer", "string"]
    return closed


def built_in_complaints(resource: ResourceType, value: Mapping[str, Any]) -> Complaints:
    """What `kubernetes-validate` says against an object of a built-in kind."""
    if not HAS_BUILT_IN or "." in resource.group.replace(".k8s.io", ""):
        return Complaints()
    import kubernetes_validate

    try:
        kubernetes_validate.validate(_without_times(value), _BUILT_IN_VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        path = ".".join(str(part) for part in error.path)
        if "additional" in error.message.lower():
            return Complaints(unknown=(f"{path}: {error.message}",))
        complaint = ((path, f"Invalid value: {error.message}"),)
        if "is not of type" in error.message:
            return Complaints(mistyped=complaint)
        return Complaints(invalid=complaint)
    except (
        kubernetes_validate.SchemaNotFoundError,
        kubernetes_validate.VersionNotSupportedError,
    ):
        return Complaints()
    return Complaints()


def _without_times(value: Mapping[str, Any]) -> dict[str, Any]:
    """What the client wrote: `managedFields` and the like are the server's own."""
    metadata = {
        key: each
        for key, each in value.get("metadata", {}).items()
        if key not in ("managedFields", "creationTimestamp")
    }
    return {**value, "metadata": metadata}
