"""Custom kinds: from their definitions to what the server makes of them.

The schemas of KubeRay's kinds are in the folder that `KUBERAY_CRDS` names (else `../shared/crds`
beside the repository); without it, these kinds take whatever they are given.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kube_api.resource_types import ResourceType
from kube_api.structural import Schema

CRDS = Path(os.environ.get("KUBERAY_CRDS") or Path(__file__).parents[3] / "shared" / "crds")
HAS_CRDS = CRDS.is_dir()

_ANYTHING = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def definition_of(resource: ResourceType, **annotations: str) -> dict[str, Any]:
    """The CustomResourceDefinition of a kind."""
    file = CRDS / f"{resource.plural}.{resource.version}.json"
    has_schema = resource.group == "ray.io" and file.exists()
    schema = json.loads(file.read_text())["openAPIV3Schema"] if has_schema else _ANYTHING
    version = {
        "name": resource.version, "served": True, "storage": True, "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": schema},
    }  # fmt: skip
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": resource.qualified, "annotations": annotations},
        "spec": {
            "group": resource.group,
            "names": {"kind": resource.kind, "plural": resource.plural},
            "scope": "Namespaced",
            "versions": [version],
        },
        "status": {"conditions": [{"type": "Established", "status": "True"}]},
    }


@dataclass(frozen=True)
class CustomKind:
    """A kind that a definition has the server serve."""

    resource: ResourceType
    schema: Schema

    @cached_property
    def validator(self) -> Any:
        """Checks objects against the schema; fields that it does not declare are no matter here."""
        from jsonschema import Draft202012Validator

        return Draft202012Validator(_to_json_schema(self.schema))


def kinds_of(definition: Mapping[str, Any]) -> Iterator[CustomKind]:
    """The kinds of a definition, one for each version that it serves."""
    spec = definition["spec"]
    for version in spec["versions"]:
        if version["served"]:
            resource = ResourceType(
                spec["group"], version["name"], spec["names"]["kind"], spec["names"]["plural"],
                namespaced=spec["scope"] == "Namespaced",
                subresources=tuple(version.get("subresources") or ()), has_generation=True,
            )  # fmt: skip
            yield CustomKind(resource, (version.get("schema") or {}).get("openAPIV3Schema") or {})


def _to_json_schema(schema: Any) -> Any:
    """An OpenAPI schema as JSON Schema. CEL rules are not run."""
    if isinstance(schema, list):
        return [_to_json_schema(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {key: _to_json_schema(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        found["type"] = ["integer", "string"]
    if schema.get("nullable") and isinstance(found.get("type"), str):
        found["type"] = [found["type"], "null"]
    return found
