"""The whole request path in one process, over real sockets: what the other gateway tests run on.

Edge, gateway, relay, keys and engine guards are the real ones, put together as in
`serving.gateway_assembly`; only the engines behind the guards are scripted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from serving.adapters.key_store import KeyCache, KeyFile
from serving.core.types import ModelId, ReplicaEndpoint, ReplicaId, TenantId
from serving.engine.guard import EngineGuard
from serving.engine.listener import HttpListener
from serving.gateway.api import Gateway, GatewayParts
from serving.gateway.catalog import Catalog
from serving.gateway.connections import Connections
from serving.gateway.edge import middlewares
from serving.gateway.engine_client import EngineClient
from serving.gateway.fleet import Fleet
from serving.gateway.load_metrics import LoadMetrics
from serving.gateway.metrics import GatewayMetrics
from serving.gateway.profiles import Profiler
from serving.gateway.relay import Relay
from serving.gateway.replica_pool import PoolSettings
from serving.gateway.replica_states import ReplicaStates
from serving.gateway.slo import SloMetrics
from serving.protocol.envelope import with_cache_salt
from serving.routing.policies import LeastTokens
from serving.settings.gateway import GatewaySettings, LimitSettings
from serving.settings.platform import Settings
from serving.settings.scaling import SloSettings
from serving.tenancy.cache_salt import CacheSalts
from serving.tenancy.classes import TenantClasses
from serving.tenancy.shared_bytes import SharedBytes

with warnings.catch_warnings():
    # Ray 2.60 declares its settings in a way pydantic 2.14 deprecates; seen on first import.
    warnings.simplefilter("ignore")
    from ray.serve._private.http_util import _apply_middlewares as apply_as_serve_does

    from serving import gateway_assembly

HOST = "127.0.0.1"
MODEL = ModelId("demo")
TOKEN = "internal-token-of-the-tests"
TENANT = "tests"
SALTS = CacheSalts(b"", {})
METRICS_TOKEN = "metrics-token-of-the-tests"
DEADLINE_S = 10.0
EVENT_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")
JSON = (b"content-type", b"application/json")
CHAT = "/v1/chat/completions"
LIMITS = LimitSettings(
    max_body_bytes=4 * 1024 * 1024,
    upload_timeout_s=0.4,
    min_upload_bytes_per_s=1024 * 1024,
    stalled_read_timeout_s=0.6,
)
GATEWAY = GatewaySettings(no_replica_wait_s=0.2, engine_silence_timeout_s=1.9, limits=LIMITS)


@dataclass
class EngineRequest:
    """A request as the engine behind a guard gets it, and the means to answer it."""

    path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    send: Callable[[dict[str, Any]], Awaitable[None]]

    def header(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    async def start(self, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def write(self, chunk: bytes) -> None:
        await self.send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def finish(self) -> None:
        await self.send({"type": "http.response.body", "body": b""})

    async def respond(self, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        await self.start(status, *headers)
        await self.send({"type": "http.response.body", "body": body})


Script = Callable[[EngineRequest], Awaitable[None]]


async def answer_ok(request: EngineRequest) -> None:
    """The answer of an engine that nobody scripted."""
    await request.respond(200, b'{"object": "chat.completion"}', JSON)


@dataclass
class FakeEngine:
    """An engine application: runs its script, and cancels it when the caller leaves, as vLLM."""

    script: Script = answer_ok
    requests: list[EngineRequest] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    aborted: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        request = EngineRequest(scope["path"], scope["query_string"], scope["headers"], body, send)
        self.requests.append(request)
        self.begun.set()
        work = asyncio.create_task(self.script(request))
        gone = asyncio.create_task(self._wait_until_gone(receive))
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            self.aborted.set()
        work.cancel()
        gone.cancel()
        await asyncio.wait({work, gone})
        if not work.cancelled() and (error := work.exception()) is not None:
            raise error

    @staticmethod
    async def _wait_until_gone(receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


@dataclass
class Stack:
    """A running gateway with its engines, and a client."""

    url: str
    key: str
    keys: KeyFile
    engines: list[FakeEngine]
    guards: list[EngineGuard]
    listeners: list[HttpListener]
    fleet: Fleet
    client: aiohttp.ClientSession
    log: list[dict[str, Any]]
    registry: CollectorRegistry

    @property
    def engine(self) -> FakeEngine:
        return self.engines[0]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def in_flight(self) -> int:
        return self.fleet.num_in_flight(MODEL) + sum(guard.in_flight for guard in self.guards)

    def replica(self, index: int) -> ReplicaEndpoint:
        return replica(f"replica-{index}", self.listeners[index].url)

    def offer(self, *replicas: ReplicaEndpoint) -> None:
        """From now on these are the model's running replicas."""
        self.fleet.update(MODEL, replicas)

    def post(
        self, path: str = CHAT, body: Any = None, **kwargs: Any
    ) -> Any:  # aiohttp's request context manager
        headers = {"authorization": f"Bearer {self.key}", **kwargs.pop("headers", {})}
        if body is None:
            body = {"model": MODEL}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers.setdefault("content-type", "application/json")
        return self.client.post(self.url + path, data=BytesIO(data), headers=headers, **kwargs)

    def get(self, path: str, *, headers: Mapping[str, str] | None = None) -> Any:
        headers = {"authorization": f"Bearer {self.key}"} if headers is None else headers
        return self.client.get(self.url + path, headers=headers)

    def raw_head(self, *lines: str, path: str = CHAT, method: str = "POST") -> bytes:
        """A request head as bytes, authenticated."""
        head = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {self.key}"]
        return "\r\n".join([*head, *lines, "", ""]).encode("latin-1")

    def raw_post(self, body: bytes = b'{"model": "demo"}', *lines: str, path: str = CHAT) -> bytes:
        return self.raw_head(f"Content-Length: {len(body)}", *lines, path=path) + body

    async def idle(self) -> None:
        """Return when nothing is in flight any more, on either side of the relay."""
        await until(lambda: self.in_flight == 0)


async def no_stream(_receive: Any, _send: Any) -> None:
    raise AssertionError("these gateways follow nobody")


async def no_targets() -> list[dict[str, Any]]:
    return []


def replica(name: str, url: str) -> ReplicaEndpoint:
    return ReplicaEndpoint(ReplicaId(name), url, metrics_url="", node_id="node", pid=1, version="v")


async def until(condition: Callable[[], bool], *, within_s: float = DEADLINE_S) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 (what is awaited has no event)
            await asyncio.sleep(0.005)


async def error_of(response: aiohttp.ClientResponse) -> tuple[int, str]:
    """Status and code of an answer that must be an error in OpenAI's shape."""
    content = await response.json()
    assert content["error"].keys() == {"message", "type", "param", "code"}, content
    assert isinstance(content["error"]["message"], str)
    assert response.headers.getall("x-request-id"), response.headers
    return response.status, content["error"]["code"]


@contextlib.asynccontextmanager
async def connection(
    stack: Stack, **kwargs: Any
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare TCP connection to the gateway."""
    reader, writer = await asyncio.open_connection(HOST, stack.port, **kwargs)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def salted(body: bytes) -> bytes:
    """What an engine gets of the tenant's request."""
    return with_cache_salt(body, SALTS.of(TenantId(TENANT), None))


@contextlib.asynccontextmanager
async def running_stack(
    folder: Path,
    *,
    num_engines: int = 1,
    max_in_flight: int = 64,
    settings: GatewaySettings = GATEWAY,
    salts: CacheSalts = SALTS,
) -> AsyncIterator[Stack]:
    """The request path with `num_engines` replicas of one model; nothing leaks at its end."""
    models = {MODEL: {"weights": {"source": "demo"}, "adapters": {"tuned": "/lora"}}}
    tree = Settings.model_validate({"models": models, "gateway": settings})
    keys = KeyFile(folder / "keys.json")
    key, _ = keys.create(TENANT)
    cache = KeyCache(folder / "keys.json", refresh_s=0.05, clock=time.monotonic)
    engines = [FakeEngine() for _ in range(num_engines)]
    guards = [
        EngineGuard(
            engine,
            token=TOKEN,
            max_in_flight=max_in_flight,
            version="v1",
            state=lambda: {"model": MODEL},
            stream=no_stream,
        )
        for engine in engines
    ]
    listeners = [HttpListener(guard, host=HOST) for guard in guards]
    connections = Connections(settings.engine_connect_timeout_s)
    engine_client = EngineClient(connections, token=TOKEN)
    untold = ReplicaStates(
        connections, token=TOKEN, max_entries=1, now=time.monotonic, rng=Random(0)
    )
    fleet = Fleet(
        {
            MODEL: PoolSettings(
                max_in_flight,
                LeastTokens(),
                10.0,
                untold,
                gateway_assembly._queue_limits(settings, tree.models[MODEL]),
            )
        },
        rng=Random(0),
        now=time.monotonic,
    )
    log: list[dict[str, Any]] = []
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry, [MODEL], TenantClasses({"gold": [TENANT]}))
    slos = SloMetrics({MODEL: SloSettings(ttft_s=0.5, itl_s=0.25)})
    registry.register(slos)
    bodies = SharedBytes(settings.limits.max_held_bytes)
    registry.register(LoadMetrics([MODEL], fleet, bodies))
    fleet.tell(on_sent=metrics.sent, on_missing=lambda _model: None, on_wanted=metrics.wanted)
    gateway = Gateway(
        GatewayParts(
            settings=settings,
            catalog=Catalog(
                tree.models,
                created=1,
                load_openapi=partial(gateway_assembly._load_openapi, fleet, engine_client, tree),
            ),
            fleet=fleet,
            profilers={MODEL: Profiler(untold, None, secret=b"")},
            cache_salts=salts,
            relay=Relay(connections, token=TOKEN, settings=settings),
            authenticate=partial(gateway_assembly._authenticate, cache),
            internal_token=TOKEN,
            fleet_state=partial(gateway_assembly._fleet_state, fleet, engine_client, [MODEL]),
            has_room=lambda: True,
            bodies=bodies,
            access_log=lambda record: log.append(dict(record)),
            metrics_token=METRICS_TOKEN,
            metric_targets=no_targets,
            metrics=metrics,
            slos=slos.counts,
        )
    )
    following_keys = asyncio.create_task(cache.run())
    door = HttpListener(apply_as_serve_does(gateway, middlewares()), host=HOST)
    for listener in (*listeners, door):
        listener.start()
    client = aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=DEADLINE_S), auto_decompress=False
    )
    stack = Stack(door.url, key, keys, engines, guards, listeners, fleet, client, log, registry)
    stack.offer(*(stack.replica(index) for index in range(num_engines)))
    try:
        yield stack
        await stack.idle()
    finally:
        await client.close()
        following_keys.cancel()
        connections.close()
        await asyncio.gather(*(listener.stop() for listener in (door, *listeners)))


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path) as running:
        yield running


async def test_a_request_walks_the_whole_path(stack: Stack) -> None:
    async with stack.post(headers={"x-request-id": "mine-1"}) as response:
        assert response.status == 200
        assert await response.read() == b'{"object": "chat.completion"}'
        assert response.headers.getall("x-request-id") == ["mine-1"]

    await until(lambda: len(stack.log) == 1)
    record = stack.log[0]
    assert record.pop("duration_ms") >= 0
    assert record == {
        "request_id": "mine-1",
        "method": "POST",
        "path": CHAT,
        "status": 200,
        "code": None,
        "key_id": stack.keys.list()[0].id,
        "model": "demo",
        "replica": "replica-0",
        "resumes": 0,
        "bytes_sent": 29,
    }


async def test_the_gateway_tells_galerne_status_what_it_sees(stack: Stack) -> None:
    async with stack.get("/galerne/fleet", headers={"x-galerne-token": TOKEN}) as response:
        seen = (await response.json())["models"]["demo"]

    assert seen == [
        {
            "id": "replica-0",
            "url": stack.listeners[0].url,
            "metrics_url": "",
            "node_id": "node",
            "pid": 1,
            "version": "v",
            "state": {"model": "demo", "in_flight": 0, "draining": False},
        }
    ]


async def test_a_dead_replica_has_no_state(stack: Stack) -> None:
    await stack.listeners[0].stop()

    async with stack.get("/galerne/fleet", headers={"x-galerne-token": TOKEN}) as response:
        assert (await response.json())["models"]["demo"][0]["state"] is None


@pytest.mark.parametrize("headers", [{}, {"x-galerne-token": "wrong"}, None])
async def test_clients_do_not_see_the_fleet(
    stack: Stack, headers: Mapping[str, str] | None
) -> None:
    async with stack.get("/galerne/fleet", headers=headers) as response:
        assert await error_of(response) == (401, "internal_only")
        assert "127.0.0.1" not in await response.text()
