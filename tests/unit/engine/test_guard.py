"""The guard lets in only the cluster, only while there is room, and counts exactly."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from serving.engine.guard import EngineGuard
from serving.protocol.usage import TokenCounts, current_usage

TOKEN = "s3cret"
OURS = [(b"x-galerne-token", TOKEN.encode())]
MAX_IN_FLIGHT = 2


class Engine:
    """Holds every request until it is let go; fails if it is told to."""

    def __init__(self) -> None:
        self.may_finish = asyncio.Event()
        self.num_requests = 0
        self.failure: Exception | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.num_requests += 1
        if scope["type"] == "lifespan":
            return
        await self.may_finish.wait()
        if self.failure:
            raise self.failure
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


class Call:
    """One request to the guard."""

    def __init__(
        self,
        guard: EngineGuard,
        *,
        path: str = "/v1/chat/completions",
        headers: list[tuple[bytes, bytes]] | None = None,
        kind: str = "http",
    ) -> None:
        self.sent: list[dict[str, Any]] = []
        scope = {"type": kind, "path": path, "headers": OURS if headers is None else headers}
        self.task = asyncio.ensure_future(guard(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    async def refusal(self) -> tuple[int, str | None]:
        await self.task
        headers = dict(self.sent[0]["headers"])
        reason = headers.get(b"x-galerne-refused")
        return self.sent[0]["status"], reason and reason.decode()


@pytest.fixture
async def engine() -> Engine:
    return Engine()


async def tell_once(_receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"frame"})


@pytest.fixture
async def guard(engine: Engine) -> EngineGuard:
    return EngineGuard(
        engine,
        token=TOKEN,
        max_in_flight=MAX_IN_FLIGHT,
        version="v1",
        state=lambda: {"model": "demo"},
        stream=tell_once,
    )


async def held(guard: EngineGuard, count: int) -> list[Call]:
    calls = [Call(guard) for _ in range(count)]
    await asyncio.sleep(0)
    return calls


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"x-galerne-token", b"")],
        [(b"x-galerne-token", b"wrong")],
        [(b"x-galerne-token", b"s3cret ")],
        [(b"x-galerne-token", b"s3cre")],
        [(b"x-galerne-token", b"\xff\xfe")],
        [(b"authorization", b"Bearer s3cret")],
        [(b"x-galerne-token", b"wrong"), *OURS],
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/galerne/state", "/metrics"])
async def test_strangers_are_turned_away(
    guard: EngineGuard, engine: Engine, headers: list[tuple[bytes, bytes]], path: str
) -> None:
    assert await Call(guard, path=path, headers=headers).refusal() == (401, "unauthenticated")
    assert engine.num_requests == 0
    assert guard.in_flight == 0


async def test_the_cluster_is_let_in(guard: EngineGuard, engine: Engine) -> None:
    engine.may_finish.set()
    call = Call(guard)

    assert await call.refusal() == (200, None)
    assert guard.in_flight == 0


async def test_one_too_many_is_refused_before_the_engine_sees_it(
    guard: EngineGuard, engine: Engine
) -> None:
    calls = await held(guard, MAX_IN_FLIGHT)

    assert await Call(guard).refusal() == (503, "full")
    assert (guard.in_flight, engine.num_requests) == (MAX_IN_FLIGHT, MAX_IN_FLIGHT)

    engine.may_finish.set()
    await asyncio.gather(*(call.task for call in calls))
    assert await Call(guard).refusal() == (200, None)


async def test_a_failing_engine_leaves_the_count_right(guard: EngineGuard, engine: Engine) -> None:
    engine.failure = ValueError("broken")
    (call,) = await held(guard, 1)
    assert guard.in_flight == 1
    engine.may_finish.set()

    with pytest.raises(ValueError, match="broken"):
        await call.task
    assert guard.in_flight == 0


@pytest.mark.parametrize(("status", "closes"), [(200, False), (400, False), (500, True)])
async def test_an_engines_failure_costs_its_connection(status: int, closes: bool) -> None:
    """An application may raise once its error answer is out, and uvicorn closes then."""

    async def answer(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"told"})

    guard = EngineGuard(
        answer, token=TOKEN, max_in_flight=MAX_IN_FLIGHT, version="v1", state=dict, stream=tell_once
    )
    call = Call(guard)
    await call.task

    assert ((b"connection", b"close") in call.sent[0]["headers"]) is closes
    assert call.sent[1]["body"] == b"told"


async def test_a_cancelled_request_leaves_the_count_right(guard: EngineGuard) -> None:
    (call,) = await held(guard, 1)
    call.task.cancel()
    await asyncio.wait({call.task})
    assert guard.in_flight == 0


async def test_the_state_is_told_though_full_and_draining(guard: EngineGuard) -> None:
    calls = await held(guard, MAX_IN_FLIGHT)
    assert not await guard.drain(0)

    asked = Call(guard, path="/galerne/state")
    assert await asked.refusal() == (200, None)
    assert json.loads(asked.sent[1]["body"]) == {
        "model": "demo", "in_flight": MAX_IN_FLIGHT, "draining": True
    }  # fmt: skip
    for call in calls:
        call.task.cancel()


async def test_draining_waits_for_what_runs_and_refuses_what_comes(
    guard: EngineGuard, engine: Engine
) -> None:
    (running,) = await held(guard, 1)
    drain = asyncio.create_task(guard.drain(3600))
    await asyncio.sleep(0)

    assert await Call(guard).refusal() == (503, "draining")
    assert not drain.done()
    engine.may_finish.set()

    assert await drain
    assert await running.refusal() == (200, None)


async def test_an_idle_engine_is_drained_at_once(guard: EngineGuard) -> None:
    assert await guard.drain(0)


async def test_draining_has_an_end(guard: EngineGuard) -> None:
    (call,) = await held(guard, 1)

    assert not await guard.drain(0.01)
    assert guard.in_flight == 1
    call.task.cancel()


async def test_the_applications_lifespan_passes(guard: EngineGuard, engine: Engine) -> None:
    await Call(guard, kind="lifespan", headers=[]).task
    assert engine.num_requests == 1


@pytest.mark.parametrize("headers", [[], OURS], ids=["stranger", "cluster"])
async def test_websockets_are_closed_in_their_own_words(
    guard: EngineGuard, engine: Engine, headers: list[tuple[bytes, bytes]]
) -> None:
    """Source: ASGI specification, HTTP and WebSocket, "Close"."""
    call = Call(guard, kind="websocket", headers=headers)
    await call.task

    assert [message["type"] for message in call.sent] == ["websocket.close"]
    assert engine.num_requests == 0


async def test_the_state_stream_is_for_the_cluster_and_holds_no_room(guard: EngineGuard) -> None:
    stranger = Call(guard, path="/galerne/state-stream", headers=[])
    assert await stranger.refusal() == (401, "unauthenticated")
    await held(guard, MAX_IN_FLIGHT)
    gateway = Call(guard, path="/galerne/state-stream")
    await gateway.task
    assert gateway.sent[-1]["body"] == b"frame"
    assert guard.in_flight == MAX_IN_FLIGHT


class Accounted:
    """A guard whose engine takes tokens before it is let go, and what the guard says of that."""

    def __init__(self, engine: Engine) -> None:
        self.told: list[tuple[str, TokenCounts]] = []
        self.guard = EngineGuard(
            self._serve, token=TOKEN, max_in_flight=9, version="v1", state=dict, stream=tell_once
        )
        self.guard.on_usage = lambda tenant, counts: self.told.append((tenant, counts))
        self._engine = engine

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        usage = current_usage.get()
        assert usage is not None
        for num_tokens in (3, 4):
            usage.follow(lambda count=num_tokens: TokenCounts(10, 8, count))
        await self._engine(scope, receive, send)

    def call(self, tenant: bytes, *more: tuple[bytes, bytes]) -> Call:
        return Call(self.guard, headers=[*OURS, (b"x-galerne-tenant", tenant), *more])


@pytest.fixture
async def accounted(engine: Engine) -> Accounted:
    return Accounted(engine)


@pytest.mark.parametrize("more", [[], [(b"x-galerne-journal", b"new")]])
@pytest.mark.parametrize("end", ["answer", "failure", "disconnect"])
async def test_each_tenant_is_told_of_at_the_end_whatever_end(
    accounted: Accounted, engine: Engine, end: str, more: list[tuple[bytes, bytes]]
) -> None:
    calls = [accounted.call(tenant, *more) for tenant in (b"ann", b"%C3%89quipe")]
    await asyncio.sleep(0)
    assert accounted.told == []
    if end == "failure":
        engine.failure = ValueError("broken")
    if end == "disconnect":
        for call in calls:
            call.task.cancel()
    engine.may_finish.set()
    await asyncio.gather(*(call.task for call in calls), return_exceptions=True)
    assert sorted(accounted.told) == [
        ("ann", TokenCounts(20, 16, 7)), ("Équipe", TokenCounts(20, 16, 7))
    ]  # fmt: skip


async def test_what_is_refused_is_told_of_nowhere(accounted: Accounted) -> None:
    assert await accounted.guard.drain(0)
    assert (await accounted.call(b"ann").refusal())[1] == "draining"
    assert accounted.told == []
