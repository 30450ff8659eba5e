"""The HTTP side: from a request to the store and back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from kube_api import discovery
from kube_api.eviction import evict
from kube_api.faults import Fault
from kube_api.request_parts import (
    APPLY,
    Target,
    change_asked_for,
    checked,
    manager_of,
    read_body,
    selection,
    success,
)
from kube_api.resource_types import BUILT_IN, ResourceType
from kube_api.status_bodies import (
    ApiError,
    conflict,
    forbidden,
    internal_error,
    invalid,
    not_found,
    too_many_requests,
    unauthorized,
)
from kube_api.watch_stream import Wakeups, watch_lines

if TYPE_CHECKING:
    from kube_api.server import KubeApi

_NAMESPACES = BUILT_IN[0]
_DEFINITIONS = next(each for each in BUILT_IN if each.kind == "CustomResourceDefinition")
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class Frontend:
    """Answers requests from the store."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._wakeups = Wakeups()
        self.wake = self._wakeups.wake
        self.end = self._wakeups.end

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The answer to any request."""
        try:
            return await self._answer(request)
        except ApiError as error:
            return web.json_response(error.body, status=error.code, headers=error.headers)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {self._api.token}":
            raise unauthorized()
        if (document := self._discovery(request.path)) is not None:
            return web.json_response(document)
        target = self._target(request.path)
        verb = self._verb(request, target)
        self._api.log.append(f"{verb} {request.path}")
        ordered = self._api.faults.next_for(verb, request.path)
        if ordered and ordered[0] is not Fault.DROP_WATCH:
            await self._fail(request, *ordered, verb=verb, target=target)
        if verb == "create" or request.content_type == APPLY:
            self._check_namespace(target)
        if verb == "watch":
            return await self._watch(request, target, drop=bool(ordered))
        return await self._act(request, verb, target)

    async def _fail(
        self, request: web.Request, fault: Fault, retry_after_s: int | None, *, verb: str,
        target: Target,
    ) -> None:  # fmt: skip
        if fault is Fault.HANG:
            await self._wakeups.ended.wait()
        if fault in (Fault.HANG, Fault.RESET):
            assert request.transport is not None
            request.transport.abort()
        makers: dict[Fault, Callable[[], ApiError]] = {
            Fault.CONFLICT: lambda: conflict(target.resource, target.name),
            Fault.TOO_MANY_REQUESTS: lambda: too_many_requests(retry_after_s),
            Fault.EXPIRED_TOKEN: unauthorized,
            Fault.FORBIDDEN: lambda: forbidden(
                verb, target.resource, target.namespace, target.name
            ),
        }
        raise makers.get(fault, internal_error)()

    def _discovery(self, path: str) -> dict[str, Any] | None:
        path = path.rstrip("/")
        fixed: dict[str, Callable[[], dict[str, Any]]] = {
            "/version": lambda: discovery.VERSION,
            "/api": lambda: discovery.core_versions(self._api.url),
            "/apis": lambda: discovery.groups(self._served()),
        }
        if path in fixed:
            return fixed[path]()
        api_version = path.removeprefix("/apis/").removeprefix("/api/")
        if any(each.api_version == api_version for each in self._served()):
            return discovery.kinds(self._served(), api_version)
        return None

    def _served(self) -> list[ResourceType]:
        """Built-in kinds, and custom ones whose definition is there."""
        _, found = self._api.store.list(_DEFINITIONS, "", lambda _: True)
        names = {each["metadata"]["name"] for each in found}
        return [each for each in self._api.resources if each in BUILT_IN or each.qualified in names]

    def _target(self, path: str) -> Target:
        """Source: kubernetes.io, API concepts, Resource URIs."""
        parts = path.strip("/").split("/")
        prefix = 2 if parts[0] == "api" else 3
        api_version, rest = "/".join(parts[1:prefix]), parts[prefix:]
        namespace = ""
        if len(rest) > 2 and rest[0] == "namespaces" and rest[2] not in ("status", "finalize"):
            namespace, rest = rest[1], rest[2:]
        for resource in self._served():
            if rest and (resource.api_version, resource.plural) == (api_version, rest[0]):
                name, subresource = ([*rest[1:], "", ""])[:2]
                if subresource and subresource not in resource.subresources:
                    break
                return Target(resource, namespace, name, subresource)
        # Where no kind is served, the real server answers in plain text.
        raise web.HTTPNotFound(text="404 page not found\n")

    def _verb(self, request: web.Request, target: Target) -> str:
        if request.method == "GET" and not target.name:
            return "watch" if request.query.get("watch") in ("1", "true", "True") else "list"
        if request.method not in _VERBS:
            raise ApiError(405, "MethodNotAllowed", "the server does not allow this method")
        return _VERBS[request.method]

    def _check_namespace(self, target: Target) -> None:
        if target.resource.namespaced:
            try:
                self._api.store.get((_NAMESPACES, "", target.namespace))
            except ApiError:
                raise not_found(_NAMESPACES, target.namespace) from None

    async def _act(self, request: web.Request, verb: str, target: Target) -> web.Response:
        store, dry_run = self._api.store, "All" in request.query.getall("dryRun", [])
        if verb == "get":
            return web.json_response(store.get(target.key))
        if verb == "list":
            return web.json_response(self._list(request, target))
        body = await read_body(request)
        if verb == "delete":
            precondition = (body or {}).get("preconditions", {}).get("uid")
            gone = store.delete(target.key, uid=precondition, dry_run=dry_run)
            return web.json_response(gone if target.resource.plural == "pods" else success(gone))
        if target.subresource == "eviction":
            evict(store, target.key, dry_run=dry_run)
            return web.json_response({**success({}), "code": 201}, status=201)
        value, is_new = self._write(request, verb, target, body, dry_run=dry_run)
        return web.json_response(value, status=201 if is_new else 200)

    def _write(
        self, request: web.Request, verb: str, target: Target, body: Any, *, dry_run: bool
    ) -> tuple[dict[str, Any], bool]:
        store, content_type = self._api.store, request.content_type
        applies = verb == "patch" and content_type == APPLY
        manager = manager_of(request, "Apply" if applies else "Update", target.subresource)
        options: dict[str, Any] = {
            "manager": manager, "dry_run": dry_run,
            "strict": request.query.get("fieldValidation") == "Strict",
        }  # fmt: skip
        if verb in ("create", "update") or applies:
            target = checked(target, body)
        if verb == "create":
            return store.create(target.key, body, **options), True
        if applies:
            force = request.query.get("force") in ("true", "True")
            return store.apply(target.key, body, force=force, **options)
        change = change_asked_for(verb, content_type, body)
        return store.update(target.key, change, subresource=target.subresource, **options), False

    def _list(self, request: web.Request, target: Target) -> dict[str, Any]:
        """A page. The token of the next one is the number of objects passed, and the version."""
        matches = selection(request)
        version, found = self._api.store.list(target.resource, target.namespace, matches)
        limit = int(request.query.get("limit") or 0)
        passed, _, listed = (request.query.get("continue") or "0").partition(":")
        if listed:
            self._api.store.changes(target.resource, int(listed))
            version = int(listed)
        page = found[int(passed) :][: limit or None]
        left = len(found) - int(passed) - len(page)
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        if left:
            token = f"{int(passed) + len(page)}:{version}"
            metadata |= {"continue": token, "remainingItemCount": left}
        items = [
            {k: v for k, v in each.items() if k not in ("apiVersion", "kind")} for each in page
        ]  # as the real server lists built-in kinds
        if target.resource.group in ("ray.io", "monitoring.coreos.com"):
            items = page
        kind = f"{target.resource.kind}List"
        return {"kind": kind, "apiVersion": target.resource.api_version, "metadata": metadata,
                "items": items}  # fmt: skip

    async def _watch(
        self, request: web.Request, target: Target, *, drop: bool
    ) -> web.StreamResponse:
        if "sendInitialEvents" in request.query:
            # Clients fall back to a list, as they do with servers that have no streaming lists.
            raise invalid(target.resource, "", [("sendInitialEvents", "Forbidden")])
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionResetError):  # clients leave when they have seen enough
            async for line in watch_lines(self._api.store, request, target, self._wakeups):
                await response.write(line)
                if drop:
                    assert request.transport is not None
                    request.transport.abort()
                    break
        return response
