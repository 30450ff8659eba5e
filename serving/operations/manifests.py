"""Objects that are to be applied: in which order, what they need, how they differ. Pure."""

from __future__ import annotations

import base64
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from serving.operations.snapshot import Object, at, name_of, templates

_FIRST = ("Namespace", "CustomResourceDefinition", "ServiceAccount", "ClusterRole",
          "ClusterRoleBinding", "Role", "RoleBinding",
          "Secret", "ConfigMap", "PersistentVolumeClaim", "Service")  # fmt: skip
_LAST = ("RayCluster", "RayService")
_SERVER_FIELDS = ("managedFields", "resourceVersion", "uid", "generation", "creationTimestamp")


def in_order(objects: Iterable[Object]) -> list[Object]:
    """What others need comes first, what needs others last; else as given.

    >>> [each["kind"] for each in in_order([{"kind": "RayService"}, {"kind": "Secret"}])]
    ['Secret', 'RayService']
    """
    return sorted(objects, key=lambda each: _rank(str(each["kind"])))


def _rank(kind: str) -> int:
    if kind in _FIRST:
        return _FIRST.index(kind) - len(_FIRST)
    return 1 + _LAST.index(kind) if kind in _LAST else 0


def needed_secrets(service: Object) -> frozenset[str]:
    """Names of the Secrets without which the pods of a RayService do not start."""
    config = at(service, "spec", "rayClusterConfig") or {}
    names = {
        name for _, template in templates(config) for name in _of_pod(template.get("spec") or {})
    }
    for credential in ("redisUsername", "redisPassword"):
        reference = at(config, "gcsFaultToleranceOptions", credential, "valueFrom", "secretKeyRef")
        if reference and not reference.get("optional"):
            names.add(reference["name"])
    return frozenset(names)


def _of_pod(spec: Object) -> Iterator[str]:
    yield from (each["name"] for each in spec.get("imagePullSecrets") or () if each.get("name"))
    for volume in spec.get("volumes") or ():
        secret = volume.get("secret") or {}
        if "secretName" in secret and not secret.get("optional"):
            yield secret["secretName"]
        for source in at(volume, "projected", "sources") or ():
            if "secret" in source and not source["secret"].get("optional"):
                yield source["secret"]["name"]
    for container in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]:
        references = [at(each, "valueFrom", "secretKeyRef") for each in container.get("env") or ()]
        references += [each.get("secretRef") for each in container.get("envFrom") or ()]
        yield from (each["name"] for each in references if each and not each.get("optional"))


def difference(before: Object | None, after: Object) -> str:
    """A unified diff of two objects, without what the server adds, and without secrets.

    >>> old = {"kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1"}}
    >>> print(difference(old, {**old, "data": {"x": "2"}}))
    --- ConfigMap a
    +++ ConfigMap a
    @@ -1,5 +1,5 @@
     data:
    -  x: '1'
    +  x: '2'
     kind: ConfigMap
     metadata:
       name: a
    """
    title = f"{after['kind']} {name_of(after)}"
    lines = difflib.unified_diff(
        _lines(before), _lines(after), title if before else "/dev/null", title, lineterm=""
    )
    return "\n".join(lines)


def _lines(value: Object | None) -> Sequence[str]:
    if value is None:
        return ()
    metadata = {k: v for k, v in value["metadata"].items() if k not in _SERVER_FIELDS}
    shown: dict[str, Any] = {k: v for k, v in value.items() if k != "status"}
    shown["metadata"] = metadata
    if value["kind"] == "Secret":
        shown |= {part: _masked(value[part]) for part in ("data", "stringData") if part in value}
    text: str = yaml.safe_dump(shown, sort_keys=True, width=100)
    return text.splitlines()


def _masked(data: Mapping[str, str] | None) -> dict[str, str]:
    """Secret values by their length only."""
    return {key: f"({_num_bytes(text)} bytes)" for key, text in (data or {}).items()}


def _num_bytes(text: str) -> int:
    try:
        return len(base64.b64decode(text, validate=True))
    except ValueError:
        return len(text)
