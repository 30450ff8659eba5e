"""The HTTP side: `running_kube_api()` gives a server with its store and faults to a test."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from kube_api import discovery
from kube_api.eviction import evict
from kube_api.faults import Fault, Faults
from kube_api.ownership import Manager
from kube_api.patching import json_patched, merge_patched
from kube_api.resource_types import BUILT_IN, RAY, ResourceType, definition_of
from kube_api.selectors import Matches, field_selector, label_selector
from kube_api.status_bodies import (
    ApiError,
    bad_request,
    conflict,
    forbidden,
    internal_error,
    not_found,
    too_many_requests,
    unauthorized,
    unsupported_patch,
)  # fmt: skip
from kube_api.store import Change, Key, Store

TOKEN = "token-of-the-tester"
_NAMESPACES = BUILT_IN[0]
_DEFINITIONS = next(each for each in BUILT_IN if each.kind == "CustomResourceDefinition")
_APPLY = "application/apply-patch+yaml"
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


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


@dataclass
class KubeApi:
    """A running server, as tests see it. `log` has `VERB PATH` of every request."""

    resources: tuple[ResourceType, ...]
    store: Store = field(default_factory=Store)
    faults: Faults = field(default_factory=Faults)
    log: list[str] = field(default_factory=list)
    url: str = ""
    token: str = TOKEN

    def put(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """The object is there as given, status included."""
        return self.store.put(self.resource_of(value["apiVersion"], value["kind"]), value)

    def get(self, api_version: str, kind: str, name: str, namespace: str = "") -> dict[str, Any]:
        """The object as the server has it."""
        return self.store.get((self.resource_of(api_version, kind), namespace, name))

    def delete(self, api_version: str, kind: str, name: str, namespace: str = "") -> None:
        """The object is gone."""
        self.store.delete((self.resource_of(api_version, kind), namespace, name))

    def resource_of(self, api_version: str, kind: str) -> ResourceType:
        """The kind of that name."""
        return next(
            each for each in self.resources
            if (each.api_version, each.kind) == (api_version, kind)
        )  # fmt: skip

    def write_kubeconfig(self, path: Path, *, namespace: str = "default") -> Path:
        """A kubeconfig with the one context `test`."""
        context = {"cluster": "test", "user": "tester", "namespace": namespace}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": context}],
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "tester", "user": {"token": self.token}}],
        }
        path.write_text(yaml.safe_dump(content))
        return path


@contextmanager
def running_kube_api(
    *, custom: Sequence[ResourceType] = RAY, namespaces: Sequence[str] = ("default",)
) -> Iterator[KubeApi]:
    """A server with these custom kinds and namespaces, on a port of its own."""
    api = KubeApi((*BUILT_IN, *custom))
    for name in namespaces:
        api.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    for resource in custom:
        api.put(definition_of(resource))
    loop = asyncio.new_event_loop()
    started, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with _listening(api):
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="kube-api")
    thread.start()
    assert started.wait(30)
    try:
        yield api
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()


@asynccontextmanager
async def _listening(api: KubeApi) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    frontend = _Frontend(api)
    api.store.on_change = lambda: loop.call_soon_threadsafe(frontend.wake)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", frontend.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    api.url = f"http://{host}:{port}"
    try:
        yield
    finally:
        api.store.on_change = lambda: None
        frontend.end()
        await runner.cleanup()


class _Frontend:
    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()

    def wake(self) -> None:
        """Watches look at the history again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def end(self) -> None:
        """Requests that hang are let go."""
        self._ended.set()
        self.wake()

    async def answer(self, request: web.Request) -> web.StreamResponse:
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
        if verb == "create" or request.content_type == _APPLY:
            self._check_namespace(target)
        if verb == "watch":
            return await self._watch(request, target, drop=bool(ordered))
        return await self._act(request, verb, target)

    async def _fail(
        self, request: web.Request, fault: Fault, retry_after_s: int | None, *, verb: str,
        target: Target,
    ) -> None:  # fmt: skip
        if fault is Fault.HANG:
            await self._ended.wait()
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
        body = await _body(request)
        if verb == "delete":
            precondition = (body or {}).get("preconditions", {}).get("uid")
            gone = store.delete(target.key, uid=precondition, dry_run=dry_run)
            return web.json_response(gone if target.resource.plural == "pods" else _success(gone))
        if target.subresource == "eviction":
            evict(store, target.key, dry_run=dry_run)
            return web.json_response({**_success({}), "code": 201}, status=201)
        value, is_new = self._write(request, verb, target, body, dry_run=dry_run)
        return web.json_response(value, status=201 if is_new else 200)

    def _write(
        self, request: web.Request, verb: str, target: Target, body: Any, *, dry_run: bool
    ) -> tuple[dict[str, Any], bool]:
        store, content_type = self._api.store, request.content_type
        applies = verb == "patch" and content_type == _APPLY
        manager = _manager(request, "Apply" if applies else "Update", target.subresource)
        options: dict[str, Any] = {
            "manager": manager, "dry_run": dry_run,
            "strict": request.query.get("fieldValidation") == "Strict",
        }  # fmt: skip
        if verb in ("create", "update") or applies:
            target = _checked(target, body)
        if verb == "create":
            return store.create(target.key, body, **options), True
        if applies:
            force = request.query.get("force") in ("true", "True")
            return store.apply(target.key, body, force=force, **options)
        change = _changed_by(verb, content_type, body)
        return store.update(target.key, change, subresource=target.subresource, **options), False

    def _list(self, request: web.Request, target: Target) -> dict[str, Any]:
        """A page. The token of the next one is the number of objects passed, and the version."""
        matches = _selection(request)
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
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + float(request.query.get("timeoutSeconds") or 1800)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        async for line in self._events(request, target, ends_at):
            await response.write(line)
            if drop:
                assert request.transport is not None
                request.transport.abort()
                break
        return response

    async def _events(
        self, request: web.Request, target: Target, ends_at: float
    ) -> AsyncIterator[bytes]:
        store, matches = self._api.store, _selection(request)
        since = int(request.query.get("resourceVersion") or 0)
        if not since:
            since, found = store.list(target.resource, target.namespace, matches)
            for each in found:
                yield _line("ADDED", each)
        loop = asyncio.get_running_loop()
        while loop.time() < ends_at and not self._ended.is_set():
            changed = self._changed
            try:
                changes = store.changes(target.resource, since)
            except ApiError as error:
                yield _line("ERROR", error.body)
                return
            for change in changes:
                since = change.version
                if event := _event(change, target, matches):
                    yield event
            if not changes:
                try:
                    await asyncio.wait_for(changed.wait(), ends_at - loop.time())
                except TimeoutError:
                    break
        if request.query.get("allowWatchBookmarks") in ("true", "True"):
            # The real server sends them about once a minute, and one at the end.
            metadata = {"resourceVersion": str(store.version)}
            yield _line("BOOKMARK", {
                "kind": target.resource.kind, "apiVersion": target.resource.api_version,
                "metadata": metadata,
            })  # fmt: skip


async def _body(request: web.Request) -> Any:
    text = await request.text()
    try:
        return yaml.safe_load(text) if text else None
    except yaml.YAMLError as error:
        raise bad_request(f"the object provided is unrecognized: {error}") from error


def _checked(target: Target, body: Any) -> Target:
    """The target with the name of the object in the body, which must not contradict it."""
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


def _manager(request: web.Request, operation: str, subresource: str) -> Manager:
    """Source: kubernetes.io, Server-Side Apply: the default is the start of the user agent."""
    name = request.query.get("fieldManager")
    if operation == "Apply" and not name:
        raise ApiError(
            422, "Invalid", "PatchOptions.meta.k8s.io is invalid: fieldManager: Required value: "
            "is required for apply patch",
        )  # fmt: skip
    agent = request.headers.get("User-Agent", "unknown").partition("/")[0]
    return Manager(name or agent, operation, subresource)


def _changed_by(verb: str, content_type: str, body: Any) -> Callable[[Any], Any]:
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


def _selection(request: web.Request) -> Matches:
    by_label = label_selector(request.query.get("labelSelector", ""))
    by_field = field_selector(request.query.get("fieldSelector", ""))
    return lambda value: by_label(value) and by_field(value)


def _event(change: Change, target: Target, matches: Matches) -> bytes | None:
    """What a watch with a selector sees: an object that no longer matches is one that goes."""
    value = change.after or change.before
    assert value is not None
    if target.namespace not in ("", value["metadata"].get("namespace", "")):
        return None
    was = change.before is not None and matches(change.before)
    is_one = change.after is not None and matches(change.after)
    if is_one:
        return _line("MODIFIED" if was else "ADDED", value)
    return _line("DELETED", value) if was else None


def _line(kind: str, value: Mapping[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": value}).encode() + b"\n"


def _success(gone: Mapping[str, Any]) -> dict[str, Any]:
    details = {"uid": gone["metadata"]["uid"], "name": gone["metadata"]["name"]} if gone else {}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": details}  # fmt: skip
