"""What the server says it has: versions, groups, kinds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kube_api.resource_types import ResourceType

VERSION = {"major": "1", "minor": "36", "gitVersion": "v1.36.0", "platform": "linux/amd64"}
_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


def core_versions(address: str) -> dict[str, Any]:
    """`/api`."""
    servers = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": servers}


def groups(resources: Iterable[ResourceType]) -> dict[str, Any]:
    """`/apis`."""
    found: dict[str, list[str]] = {}
    for resource in resources:
        if resource.group and resource.version not in found.setdefault(resource.group, []):
            found[resource.group].append(resource.version)
    listed = [
        {
            "name": group,
            "versions": [
                {"groupVersion": f"{group}/{version}", "version": version} for version in versions
            ],
            "preferredVersion": {
                "groupVersion": f"{group}/{versions[0]}", "version": versions[0]
            },
        }
        for group, versions in sorted(found.items())
    ]  # fmt: skip
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}


def kinds(resources: Iterable[ResourceType], api_version: str) -> dict[str, Any]:
    """`/api/v1` or `/apis/GROUP/VERSION`."""
    rows: list[dict[str, Any]] = []
    for resource in resources:
        if resource.api_version != api_version:
            continue
        row = {"name": resource.plural, "singularName": resource.kind.lower(),
               "namespaced": resource.namespaced, "kind": resource.kind,
               "verbs": _VERBS}  # fmt: skip
        rows.append(row)
        rows += [
            row | {"name": f"{resource.plural}/{each}", "verbs": ["create"] if each == "eviction"
                   else ["get", "patch", "update"]}
            for each in resource.subresources
        ]  # fmt: skip
    return {
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version,
        "resources": rows,
    }  # fmt: skip
