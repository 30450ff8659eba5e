"""Objects that the contract's tests make."""

from __future__ import annotations

from typing import Any


def config_map(name: str, namespace: str, **data: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def pod(name: str, namespace: str, **labels: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    # A scheduler that does not exist leaves it pending, on a real server too.
    spec = {"schedulerName": "nobody", "containers": [{"name": "main", "image": "none:1"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
