"""The HTTP side: from a request to the store and back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aiohttp import web

from kube_api import discovery
from kube_api.authorization import ADMINISTRATOR, Asked, account_name, authorize, may, refusal
from kube_api.eviction import evict
from kube_api.faults import Fault
from kube_api.request_parts import (
    APPLY,
    Target,
    asked_in,
    change_asked_for,
    checked,
    manager_of,
    read_body,
    selection,
    success,
)
from kube_api.resource_types import BUILT_IN
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
        user = self._user(request)
        if (document := self._discovery(request.path)) is not None:
            return web.json_response(document)
        asked = asked_in(request)
        self._api.log.append(f"{asked.verb} {request.path}")
        ordered = self._api.faults.next_for(asked.verb, request.path)
        if ordered and ordered[0] is not Fault.DROP_WATCH:
            await self._fail(*ordered, request=request, asked=asked)
        # Rights come before what there is: without them nobody learns that a kind is not served.
        authorize(self._api.store, user, asked)
        target = self._target(request, asked)
        if asked.verb == "create" or request.content_type == APPLY:
            self._check_namespace(target)
        if request.content_type == APPLY:
            self._check_right_to_create(user, asked, target)
        if asked.verb == "watch":
            return await self._watch(request, target, drop=bool(ordered))
        return await self._act(request, asked.verb, target)

    def _user(self, request: web.Request) -> str:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise unauthorized()
        if token == self._api.token:
            return ADMINISTRATOR
        if token not in self._api.issued:
            raise unauthorized()
        return self._api.issued[token]

    async def _fail(
        self, fault: Fault, retry_after_s: int | None, *, request: web.Request, asked: Asked
    ) -> None:
        if fault is Fault.HANG:
            await self._wakeups.ended.wait()
        if fault in (Fault.HANG, Fault.RESET):
            assert request.transport is not None
            request.transport.abort()
        makers: dict[Fault, Callable[[], ApiError]] = {
            Fault.CONFLICT: lambda: conflict(self._target(request, asked).resource, asked.name),
            Fault.TOO_MANY_REQUESTS: lambda: too_many_requests(retry_after_s),
            Fault.EXPIRED_TOKEN: unauthorized,
            Fault.FORBIDDEN: lambda: refusal(ADMINISTRATOR, asked),
        }
        raise makers.get(fault, internal_error)()

    def _discovery(self, path: str) -> dict[str, Any] | None:
        path = path.rstrip("/")
        fixed: dict[str, Callable[[], dict[str, Any]]] = {
            "/version": lambda: discovery.VERSION,
            "/api": lambda: discovery.core_versions(self._api.url),
            "/apis": lambda: discovery.groups(self._api.store.kinds),
        }
        if path in fixed:
            return fixed[path]()
        api_version = path.removeprefix("/apis/").removeprefix("/api/")
        if any(each.api_version == api_version for each in self._api.store.kinds):
            return discovery.kinds(self._api.store.kinds, api_version)
        return None

    def _target(self, request: web.Request, asked: Asked) -> Target:
        version = request.path.strip("/").split("/")[2 if asked.group else 1]
        wanted = (asked.group, version, asked.plural)
        for resource in self._api.store.kinds:
            if (resource.group, resource.version, resource.plural) != wanted:
                continue
            if asked.subresource in ("", *resource.subresources):
                namespace = asked.namespace if resource.namespaced else ""
                return Target(resource, namespace, asked.name, asked.subresource)
        # Where no kind is served, the real server answers in plain text.
        raise web.HTTPNotFound(text="404 page not found\n")

    def _check_namespace(self, target: Target) -> None:
        if target.resource.namespaced:
            try:
                self._api.store.get((_NAMESPACES, "", target.namespace))
            except ApiError:
                raise not_found(_NAMESPACES, target.namespace) from None

    def _check_right_to_create(self, user: str, asked: Asked, target: Target) -> None:
        """An apply that finds nothing to change creates."""
        store = self._api.store
        creates = replace(asked, verb="create")
        if not store.has(target.key) and not may(store, user, creates):
            raise forbidden(asked.group, asked.plural, asked.name, "")

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
        if target.subresource == "token":
            return web.json_response(self._issue(target, body), status=201)
        if target.subresource == "eviction":
            evict(store, target.key, dry_run=dry_run)
            return web.json_response({**success({}), "code": 201}, status=201)
        value, is_new = self._write(request, verb, target, body, dry_run=dry_run)
        return web.json_response(value, status=201 if is_new else 200)

    def _issue(self, target: Target, body: dict[str, Any]) -> dict[str, Any]:
        """A TokenRequest with its token, which does not expire."""
        self._api.store.get(target.key)
        token = f"token-{len(self._api.issued)}-of-{target.name}"
        self._api.issued[token] = account_name(target.namespace, target.name)
        return {**body, "status": {"token": token}}

    def _write(
        self, request: web.Request, verb: str, target: Target, body: Any, *, dry_run: bool
    ) -> tuple[dict[str, Any], bool]:
        store, content_type = self._api.store, request.content_type
        applies = verb == "patch" and content_type == APPLY
        manager = manager_of(request, "Apply" if applies else "Update", target.subresource)
        options: dict[str, Any] = {"manager": manager, "dry_run": dry_run}
        if verb in ("create", "update") or applies:
            target = checked(target, body)
        if applies:
            force = request.query.get("force") in ("true", "True")
            return store.apply(target.key, body, force=force, **options)
        options["strict"] = request.query.get("fieldValidation") == "Strict"
        if verb == "create":
            return store.create(target.key, body, **options), True
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
