"""Whether an object is one the API would take: unknown fields and wrong types.

Custom kinds are checked with the schema of their definition, built-in ones with
`kubernetes-validate`: where that is not installed, they take anything.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kube_api.definitions import CustomKind
from kube_api.structural import pruned

HAS_BUILT_IN = importlib.util.find_spec("kubernetes_validate") is not None
_BUILT_IN_VERSION = "1.36"


@dataclass(frozen=True, slots=True)
class Complaints:
    """What is wrong with an object: fields nobody knows; fields of a wrong type, or with a wrong
    value, and why."""

    unknown: tuple[str, ...] = ()
    mistyped: tuple[tuple[str, str], ...] = ()
    invalid: tuple[tuple[str, str], ...] = ()


def custom_complaints(kind: CustomKind, value: Mapping[str, Any]) -> Complaints:
    """What the schema of a custom kind says against an object."""
    invalid: list[tuple[str, str]] = []
    mistyped: list[tuple[str, str]] = []
    checked = {key: each for key, each in value.items() if key != "metadata"}
    for error in kind.validator.iter_errors(checked):
        path = ".".join(str(part) for part in error.absolute_path)
        found = mistyped if error.validator == "type" else invalid
        found.append((path, f"Invalid value: {error.message}"))
    return Complaints(pruned(value, kind.schema)[1], tuple(mistyped), tuple(invalid))


def built_in_complaints(value: Mapping[str, Any]) -> Complaints:
    """What `kubernetes-validate` says against an object of a built-in kind."""
    if not HAS_BUILT_IN:
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
