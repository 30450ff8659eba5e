"""What a request says: its target, its body, its writer, its selection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from aiohttp import web

from kube_api.authorization import Asked
from kube_api.ownership import Manager
from kube_api.patching import json_patched, merge_patched
from kube_api.resource_types import ResourceType
from kube_api.selectors import Matches, field_selector, label_selector
from kube_api.status_bodies import ApiError, bad_request, unsupported_patch
from kube_api.store import Key

_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is about: a kind, perhaps one object of it, perhaps a part of that."""

    resource: ResourceType
    namespace: str
    name: str
    subresource: str

    @property
    def key(self) -> Key:
        return self.resource, self.namespace, self.name


def asked_in(request: web.Request) -> Asked:
    """What a request is about, by its address alone.

    Source: kubernetes.io, API concepts, Resource URIs; a namespace is in itself.

    Raises:
        ApiError: 405.
    """
    parts = request.path.strip("/").split("/")
    prefix = 2 if parts[0] == "api" else 3
    group, rest = "" if parts[0] == "api" else parts[1], parts[prefix:]
    namespace = rest[1] if rest[:1] == ["namespaces"] and len(rest) > 1 else ""
    if len(rest) > 2 and rest[0] == "namespaces" and rest[2] not in ("status", "finalize"):
        rest = rest[2:]
    plural, name, subresource = ([*rest, "", "", ""])[:3]
    return Asked(_verb(request, name), group, plural, namespace, name, subresource)


def _verb(request: web.Request, name: str) -> str:
    if request.method == "GET" and not name:
        return "watch" if request.query.get("watch") in ("1", "true", "True") else "list"
    if request.method not in _VERBS:
        raise ApiError(405, "MethodNotAllowed", "the server does not allow this method")
    return _VERBS[request.method]


async def read_body(request: web.Request) -> Any:
    """What a request carries; JSON is YAML.

    Raises:
        ApiError: 400; 415, it is in another form, such as protobuf.
    """
    if not request.content_type.endswith(("json", "yaml", "octet-stream")):
        raise unsupported_patch(request.content_type)
    text = await request.text()
    try:
        return yaml.safe_load(text) if text else None
    except yaml.YAMLError as error:
        raise bad_request(f"the object provided is unrecognized: {error}") from error


def checked(target: Target, body: Any) -> Target:
    """The target with the name of the object in the body, which must not contradict it.

    Raises:
        ApiError: 400 or 422.
    """
    if not isinstance(body, dict):
        raise bad_request("the object provided is unrecognized")
    resource, metadata = target.resource, body.get("metadata") or {}
    given = (body.get("apiVersion"), body.get("kind"))
    if given != (resource.api_version, resource.kind):
        raise bad_request(
            f"the API version and kind in the data ({given}) do not match the expected ones "
            f"({resource.api_version}, {resource.kind})"
        )
    if metadata.get("namespace", target.namespace) != target.namespace:
        raise bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    name = metadata.get("name", target.name)
    if target.name and name != target.name:
        raise bad_request(
            f"the name of the object ({name}) does not match the name on the URL ({target.name})"
        )
    if not name:
        raise ApiError(422, "Invalid", f'{resource.kind} "" is invalid: metadata.name: Required')
    return Target(resource, target.namespace, name, target.subresource)


def manager_of(request: web.Request, operation: str, subresource: str) -> Manager:
    """As whom a request writes; unless it says so, as the start of its user agent.

    Source: kubernetes.io, Server-Side Apply.

    Raises:
        ApiError: 422, an apply does not say so.
    """
    name = request.query.get("fieldManager")
    if operation == "Apply" and not name:
        raise ApiError(
            422, "Invalid", "PatchOptions.meta.k8s.io is invalid: fieldManager: Required value: "
            "is required for apply patch",
        )  # fmt: skip
    agent = request.headers.get("User-Agent", "unknown").partition("/")[0]
    return Manager(name or agent, operation, subresource)


def change_asked_for(verb: str, content_type: str, body: Any) -> Callable[[Any], Any]:
    """What an update or a patch does to an object.

    Raises:
        ApiError: 415.
    """
    if verb == "update":
        return lambda _: body
    if content_type == "application/merge-patch+json":
        return lambda before: merge_patched(before, body)
    if content_type == "application/json-patch+json":
        return lambda before: _json_patched(before, body)
    # Strategic merge needs the Go types' tags.
    raise unsupported_patch(content_type)


def _json_patched(before: Any, body: Any) -> Any:
    try:
        return json_patched(before, body)
    except ValueError as error:
        raise ApiError(
            422, "Invalid", f"the server rejected our request due to an error in our request: "
            f"{error}",
        ) from error  # fmt: skip


def success(gone: Mapping[str, Any]) -> dict[str, Any]:
    """The `Status` of a request that has no object to give."""
    details = {"uid": gone["metadata"]["uid"], "name": gone["metadata"]["name"]} if gone else {}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": details}  # fmt: skip


def selection(request: web.Request) -> Matches:
    """Which objects a request is about.

    Raises:
        ApiError: 400.
    """
    by_label = label_selector(request.query.get("labelSelector", ""))
    by_field = field_selector(request.query.get("fieldSelector", ""))
    return lambda value: by_label(value) and by_field(value)
