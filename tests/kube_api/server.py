"""`running_kube_api()` gives a server with its store and faults to a test. Over HTTP it is
`frontend.py`."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from kube_api.definitions import definition_of
from kube_api.faults import Faults
from kube_api.frontend import Frontend
from kube_api.resource_types import RAY, ResourceType
from kube_api.store import Store

TOKEN = "token-of-the-tester"


@dataclass
class KubeApi:
    """A running server, as tests see it. `log` has `VERB PATH` of every request, `issued` the
    users of the tokens that were asked for."""

    store: Store = field(default_factory=Store)
    faults: Faults = field(default_factory=Faults)
    log: list[str] = field(default_factory=list)
    url: str = ""
    token: str = TOKEN
    issued: dict[str, str] = field(default_factory=dict)

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
            each for each in self.store.kinds
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
    *,
    custom: Sequence[ResourceType] = RAY,
    namespaces: Sequence[str] = ("default",),
    tls: ssl.SSLContext | None = None,
) -> Iterator[KubeApi]:
    """A server with these custom kinds and namespaces, on a port of its own."""
    api = KubeApi()
    for name in namespaces:
        api.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    for resource in custom:
        api.put(definition_of(resource))
    loop = asyncio.new_event_loop()
    started, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with _listening(api, tls):
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
async def _listening(api: KubeApi, tls: ssl.SSLContext | None) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    frontend = Frontend(api)
    api.store.on_change = lambda: loop.call_soon_threadsafe(frontend.wake)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", frontend.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    host, port = runner.addresses[0][:2]
    api.url = f"{'https' if tls else 'http'}://{host}:{port}"
    try:
        yield
    finally:
        api.store.on_change = lambda: None
        frontend.end()
        await runner.cleanup()
        if tls is not None:
            await asyncio.sleep(0.1)  # TLS connections take some turns of the loop to close.
