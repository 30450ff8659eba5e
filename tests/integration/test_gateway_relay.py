"""The relay over real sockets: the same bytes both ways, and every way an engine can fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random

import aiohttp
import pytest
from starlette.types import Message
from test_gateway_stack import (
    CHAT,
    DEADLINE_S,
    EVENT_STREAM,
    GATEWAY,
    HOST,
    JSON,
    LIMITS,
    MODEL,
    TENANT,
    TOKEN,
    EngineRequest,
    Stack,
    answer_ok,
    connection,
    error_of,
    replica,
    running_stack,
    salted,
    until,
)

from loadtest.processes import free_port
from serving.core.types import TenantId
from serving.engine import journaling
from serving.errors import EngineError
from serving.gateway import relay as relay_module
from serving.gateway.connections import Connections
from serving.gateway.exchange import ClientGoneError, Exchange
from serving.gateway.relay import Asked, Relay
from serving.protocol.usage import TokenCounts

MESSAGES = "/v1/messages"
ABORT_WITHIN_S = 1.0
LEAK_ROUNDS = 2
QUEUE_TIMEOUT_S = 1.0
REQUESTS_PER_ROUND = 200


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path) as running:
        yield running


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Stack]:
    """Two replicas that take one request at a time."""
    settings = GATEWAY.model_copy(update={"queue_timeout_s": QUEUE_TIMEOUT_S})
    async with running_stack(
        tmp_path, num_engines=2, max_in_flight=1, settings=settings
    ) as running:
        yield running


async def status_of(stack: Stack) -> int:
    async with stack.post() as response:
        await response.read()
        return int(response.status)


@contextlib.asynccontextmanager
async def engine_that_hangs_up() -> AsyncIterator[str]:
    """A listener that reads the request and closes without a word."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, HOST, 0)
    async with server:
        yield f"http://{HOST}:{server.sockets[0].getsockname()[1]}"


async def stream_forever(request: EngineRequest) -> None:
    await request.start(200, EVENT_STREAM)
    await request.write(b"data: 0\n\n")
    await asyncio.Event().wait()


async def never_answer(request: EngineRequest) -> None:
    await asyncio.Event().wait()


async def flood(request: EngineRequest) -> None:
    await request.start(200, EVENT_STREAM)
    while True:
        await request.write(b"x" * 65536)
        await asyncio.sleep(0)


def open_connections(port: int) -> int:
    """TCP connections that the gateway still holds, whether or not it wants to."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    held = {"01", "04", "05", "08", "09"}  # established, or closing with bytes left to send
    return sum(row[1].endswith(f":{port:04X}") and row[3] in held for row in rows)


# --- bytes and headers -------------------------------------------------------------------------


@pytest.mark.parametrize("head", [EVENT_STREAM, JSON], ids=["sse", "json"])
@pytest.mark.parametrize("seed", range(6))
async def test_an_answer_arrives_byte_for_byte(
    stack: Stack, head: tuple[bytes, bytes], seed: int
) -> None:
    rng = Random(seed)
    chunks = [rng.randbytes(rng.choice([1, 7, 1500, 70_000])) for _ in range(rng.randint(1, 30))]

    async def answer(request: EngineRequest) -> None:
        await request.start(200, head)
        for chunk in chunks:
            await request.write(chunk)
        await request.finish()

    stack.engine.script = answer
    async with stack.post() as response:
        assert response.headers["content-type"].encode() == head[1]
        assert await response.read() == b"".join(chunks)

    assert stack.log == [] or stack.log[0]["code"] is None


async def test_each_event_arrives_before_the_next_is_made(stack: Stack) -> None:
    taken = asyncio.Event()

    async def answer(request: EngineRequest) -> None:
        await request.start(200, EVENT_STREAM)
        for index in range(5):
            await request.write(b"data: %d\n\n" % index)
            await taken.wait()
            taken.clear()
        await request.finish()

    stack.engine.script = answer
    async with stack.post() as response:
        for index in range(5):
            assert await response.content.readany() == b"data: %d\n\n" % index
            taken.set()
        assert await response.content.read() == b""


@pytest.mark.parametrize("num_padding_bytes", [0, 200_000, 3_000_000])
async def test_a_request_body_arrives_byte_for_byte_with_its_salt(
    stack: Stack, num_padding_bytes: int
) -> None:
    body = b'{ "model":"demo",\n "x": "' + b"\xc3\xa9" * (num_padding_bytes // 2) + b'" }\n'

    async with stack.post(body=body) as response:
        assert response.status == 200

    assert stack.engine.requests[0].body == salted(body)


async def test_engines_see_only_the_headers_they_need(stack: Stack) -> None:
    allowed = {
        "accept": "text/event-stream",
        "content-type": "application/json; charset=utf-8",
        "user-agent": "sdk/1",
        "traceparent": "00-1-2-01",
        "tracestate": "a=b",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "x",
        "openai-beta": "y",
    }
    withheld = {
        "x-api-key": stack.key,
        "cookie": "a=b",
        "x-galerne-token": "forged",
        "x-galerne-refused": "full",
        "x-galerne-tenant": "forged",
        "x-data-parallel-rank": "3",
        "x-request-timeout-seconds": "1",
        "x-request-disconnect-disabled": "?0",
        "serve_multiplexed_model_id": "m",
        "x-forwarded-for": "10.0.0.1",
        "accept-encoding": "gzip",
        "te": "trailers",
        "origin": "http://evil",
    }
    async with stack.post(headers=allowed | withheld) as response:
        assert response.status == 200

    seen = stack.engine.requests[0].headers
    names = [name.decode() for name, _ in seen]
    assert {n.decode(): v.decode() for n, v in seen if n.decode() in allowed} == allowed
    assert set(names) - set(allowed) == {
        "host",
        "content-length",
        "x-galerne-token",
        "x-galerne-tenant",
        "x-request-id",
    }
    assert len(names) == len(set(names))
    assert stack.engine.requests[0].header(b"x-galerne-token") == [TOKEN.encode()]
    assert stack.engine.requests[0].header(b"x-galerne-tenant") == [TENANT.encode()]
    assert not any(stack.key.encode() in value for _, value in seen)


@pytest.mark.parametrize("name", ["Équipe 7", '50% off, "now"', "日本" * 32])
async def test_an_engine_is_told_whose_request_it_is(stack: Stack, name: str) -> None:
    """A key may be named in any language."""
    told: list[tuple[str, TokenCounts]] = []
    stack.guards[0].on_usage = lambda tenant, counts: told.append((tenant, counts))
    key, _ = stack.keys.create(name)
    async with stack.post(headers={"authorization": f"Bearer {key}"}) as response:
        assert response.status == 200
    await stack.idle()

    assert told == [(name, TokenCounts())]


async def test_a_body_without_a_media_type_reaches_the_engine_as_json(stack: Stack) -> None:
    """vLLM answers 415 to anything else."""
    async with connection(stack) as (reader, writer):
        writer.write(stack.raw_post())
        assert (await reader.readline()).split()[1] == b"200"

    assert stack.engine.requests[0].header(b"content-type") == [b"application/json"]


@pytest.mark.parametrize("value", ["a\tb", "café", "日本"])
async def test_a_forwarded_header_keeps_its_bytes(stack: Stack, value: str) -> None:
    sent = value.encode()
    async with connection(stack) as (reader, writer):
        writer.write(stack.raw_post(b'{"model": "demo"}', f"User-Agent: {sent.decode('latin-1')}"))
        assert (await reader.readline()).split()[1] == b"200"

    assert stack.engine.requests[0].header(b"user-agent") == [sent]


async def test_a_header_in_no_known_encoding_costs_nothing(stack: Stack) -> None:
    async with connection(stack) as (reader, writer):
        writer.write(stack.raw_post(b'{"model": "demo"}', "User-Agent: \xff\xfe"))
        assert (await reader.readline()).split()[1] == b"200"


@pytest.mark.parametrize("control", ["\x01", "\x07", "\x1f", "\x7f"])
async def test_a_control_character_in_a_header_is_the_callers_fault(
    stack: Stack, control: str
) -> None:
    async with connection(stack) as (reader, writer):
        writer.write(stack.raw_post(b'{"model": "demo"}', f"User-Agent: a{control}b"))
        status = int((await reader.readline()).split()[1])

    assert status in {200, 400}


async def test_hop_by_hop_and_internal_headers_stay_here(stack: Stack) -> None:
    async def answer(request: EngineRequest) -> None:
        await request.respond(
            200,
            b"{}",
            JSON,
            (b"server", b"uvicorn"),
            (b"keep-alive", b"timeout=5"),
            (b"proxy-authenticate", b"Basic"),
            (b"upgrade", b"h2c"),
            (b"trailer", b"x"),
            (b"te", b"x"),
            (b"x-request-id", b"of-the-engine"),
            (b"x-galerne-secret", b"1"),
            (b"openai-processing-ms", b"12"),
            (b"set-cookie", b"a=1"),
            (b"set-cookie", b"b=2"),
        )

    stack.engine.script = answer
    async with stack.post(headers={"x-request-id": "mine"}) as response:
        assert await response.read() == b"{}"
        headers = response.headers

    assert headers.getall("x-request-id") == ["mine"]
    assert headers.getall("set-cookie") == ["a=1", "b=2"]
    assert headers["openai-processing-ms"] == "12"
    assert not headers.keys() & {
        "server", "keep-alive", "proxy-authenticate", "upgrade", "trailer", "te",
        "x-galerne-secret",
    }  # fmt: skip


async def test_headers_that_an_answer_calls_hop_by_hop_stay_here(stack: Stack) -> None:
    """Source: RFC 9110, section 7.6.1."""

    async def answer(request: EngineRequest) -> None:
        await request.respond(200, b"{}", JSON, (b"connection", b"x-hop"), (b"x-hop", b"1"))

    stack.engine.script = answer
    async with stack.post() as response:
        assert "x-hop" not in response.headers


@pytest.mark.parametrize("value", [b"caf\xe9", "日本".encode()])
async def test_an_answers_header_keeps_its_bytes(stack: Stack, value: bytes) -> None:
    async def answer(request: EngineRequest) -> None:
        await request.respond(200, b"{}", JSON, (b"x-note", value))

    stack.engine.script = answer
    async with stack.post() as response:
        assert response.status == 200
        assert (b"x-note", value) in response.raw_headers


async def test_no_encoding_is_undone(stack: Stack) -> None:
    body = b"\x1f\x8b not really gzip"

    async def answer(request: EngineRequest) -> None:
        await request.respond(200, body, JSON, (b"content-encoding", b"gzip"))

    stack.engine.script = answer
    async with stack.post() as response:
        assert response.headers["content-encoding"] == "gzip"
        assert await response.read() == body


async def test_a_redirect_is_not_followed(stack: Stack) -> None:
    """It would carry the internal token to wherever it points."""

    async def answer(request: EngineRequest) -> None:
        if request.path == CHAT:
            await request.respond(307, b"", (b"location", b"/elsewhere"))
        else:
            await request.respond(200, b"{}", JSON)

    stack.engine.script = answer
    async with stack.post(allow_redirects=False) as response:
        await response.read()

    assert [request.path for request in stack.engine.requests] == [CHAT]


# --- another replica ---------------------------------------------------------------------------


async def test_a_full_replica_passes_the_request_on(pair: Stack) -> None:
    pair.engines[0].script = pair.engines[1].script = stream_forever
    async with pair.post() as first, pair.post() as second:
        assert (first.status, second.status) == (200, 200)
        assert [len(engine.requests) for engine in pair.engines] == [1, 1]
        async with pair.post() as third:
            assert await error_of(third) == (429, "engine_overloaded")
            assert 1 <= int(third.headers["retry-after"]) <= 60


async def test_a_request_waits_for_room(pair: Stack) -> None:
    """And is served by the replica whose client left."""
    pair.engines[0].script = pair.engines[1].script = stream_forever
    async with pair.post(), pair.post():
        waiting = asyncio.create_task(status_of(pair))
        await until(lambda: pair.fleet.num_queued(MODEL) == 1)
        for engine in pair.engines:
            engine.script = answer_ok
    assert await waiting == 200


async def test_a_client_that_leaves_the_queue_is_forgotten(pair: Stack) -> None:
    pair.engines[0].script = pair.engines[1].script = stream_forever
    async with pair.post(), pair.post():
        waiting = asyncio.create_task(status_of(pair))
        await until(lambda: pair.fleet.num_queued(MODEL) == 1)
        waiting.cancel()
        await until(lambda: pair.fleet.num_queued(MODEL) == 0)


async def test_a_full_replica_is_skipped_though_it_looks_idle(pair: Stack) -> None:
    """Another gateway filled it: only the refusal tells."""
    pair.engines[0].script = stream_forever
    async with pair.client.post(
        pair.listeners[0].url + CHAT, headers={"x-galerne-token": TOKEN}, data=b"{}"
    ) as elsewhere:
        assert elsewhere.status == 200
        for _ in range(6):
            async with pair.post() as response:
                assert response.status == 200

    assert len(pair.engines[1].requests) == 6


async def test_a_draining_replica_passes_the_request_on(pair: Stack) -> None:
    assert await pair.guards[0].drain(0)

    for _ in range(6):
        async with pair.post() as response:
            assert response.status == 200

    assert [len(engine.requests) for engine in pair.engines] == [0, 6]


async def test_a_dead_replica_passes_the_request_on(pair: Stack) -> None:
    await pair.listeners[0].stop()

    for _ in range(6):
        async with pair.post() as response:
            assert response.status == 200

    assert len(pair.engines[1].requests) == 6


async def test_a_replica_that_hangs_up_passes_the_request_on(stack: Stack) -> None:
    async with engine_that_hangs_up() as url:
        stack.offer(replica("broken", url), stack.replica(0))
        for _ in range(6):
            async with stack.post() as response:
                assert response.status == 200


async def test_without_a_living_replica_the_error_is_retryable(stack: Stack) -> None:
    stack.offer(replica("dead", f"http://{HOST}:{free_port()}"))

    async with stack.post() as response:
        assert await error_of(response) == (503, "model_not_ready")
        assert response.headers["retry-after"]
        assert HOST not in await response.text()


async def test_many_dead_replicas_do_not_hold_a_request(stack: Stack) -> None:
    stack.offer(*(replica(f"dead-{n}", f"http://{HOST}:{free_port()}") for n in range(5)))

    async with stack.post() as response:
        assert await error_of(response) == (502, "engine_unavailable")
        assert HOST not in await response.text()


async def test_a_replica_that_appears_while_a_request_waits_is_used(stack: Stack) -> None:
    stack.offer()
    waiting = asyncio.create_task(answer_status(stack))
    await until(lambda: len(asyncio.all_tasks()) > 0 and not waiting.done())
    stack.offer(stack.replica(0))

    assert await waiting == 200


async def answer_status(stack: Stack) -> int:
    async with stack.post() as response:
        await response.read()
        return int(response.status)


# --- an engine that fails ----------------------------------------------------------------------


def dies_after(
    chunk: bytes, *head: tuple[bytes, bytes]
) -> Callable[[EngineRequest], Awaitable[None]]:
    async def answer(request: EngineRequest) -> None:
        await request.start(200, *head)
        await request.write(chunk)  # and returns: the server then cuts the connection

    return answer


async def test_a_stream_that_breaks_ends_with_an_error_event(stack: Stack) -> None:
    stack.engine.script = dies_after(b'data: {"n": 1}\n\n', EVENT_STREAM)

    async with stack.post() as response:
        text = await response.text()

    assert text.startswith('data: {"n": 1}\n\ndata: {"error"')
    assert text.endswith("\n\n")
    error = json.loads(text.removeprefix('data: {"n": 1}\n\ndata: '))["error"]
    assert (error["code"], error["type"]) == ("engine_failed", "api_error")


async def test_a_broken_message_stream_names_its_error_event(stack: Stack) -> None:
    stack.engine.script = dies_after(b"event: ping\ndata: {}\n\n", EVENT_STREAM)

    async with stack.post(MESSAGES) as response:
        events = (await response.text()).strip().split("\n\n")

    assert events[1].startswith("event: error\ndata: ")
    body = json.loads(events[1].removeprefix("event: error\ndata: "))
    assert (body["type"], body["error"]["code"]) == ("error", "engine_failed")


@pytest.mark.parametrize(
    "head", [(JSON,), (JSON, (b"content-length", b"500"))], ids=["chunked", "sized"]
)
async def test_another_answer_that_breaks_is_cut(
    stack: Stack, head: tuple[tuple[bytes, bytes], ...]
) -> None:
    stack.engine.script = dies_after(b'{"half": ', *head)

    async with stack.post() as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_the_access_log_tells_a_broken_answer_from_a_whole_one(stack: Stack) -> None:
    stack.engine.script = dies_after(b"data: 1\n\n", EVENT_STREAM)

    async with stack.post() as response:
        await response.read()

    await until(lambda: len(stack.log) == 1)
    assert stack.log[0]["code"] == "engine_failed"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, b'{"error": {"message": "bad n", "param": "n"}}', (400, "invalid_request")),
        (422, b'{"detail": [{"msg": "x"}]}', (400, "invalid_request")),
        (404, b'{"detail": "Not Found"}', (404, "unsupported_by_model")),
        (405, b'{"detail": "Method Not Allowed"}', (404, "unsupported_by_model")),
        (501, b"", (404, "unsupported_by_model")),
        (500, b"Traceback (most recent call last): /srv/vllm/x.py", (502, "engine_error")),
        (502, b"x", (502, "engine_error")),
        (503, b"http://10.0.0.7:1", (429, "engine_overloaded")),
        (400, b'{"error": {"message": "x", "param": ["a"]}}', (400, "invalid_request")),
        (400, b'{"error": {"message": "x", "param": {}}}', (400, "invalid_request")),
        (400, b"[" * 60_000, (400, "invalid_request")),
        (400, b"\xff\xfe", (400, "invalid_request")),
        (
            400,
            b'{"error": {"message": "maximum context length is 8", "param": "input_tokens"}}',
            (400, "context_length_exceeded"),
        ),
    ],
)
async def test_an_engines_error_is_told_in_our_terms(
    stack: Stack, status: int, body: bytes, expected: tuple[int, str]
) -> None:
    async def answer(request: EngineRequest) -> None:
        await request.respond(status, body, JSON)

    stack.engine.script = answer
    async with stack.post() as response:
        assert await error_of(response) == expected
        text = await response.text()

    assert "Traceback" not in text
    assert "10.0.0.7" not in text


@pytest.mark.parametrize("status", [400, 500])
async def test_an_engine_that_raises_costs_the_next_request_nothing(
    stack: Stack, status: int
) -> None:
    """Starlette raises again what it has answered, and uvicorn then closes the connection."""
    next_one_came = asyncio.Event()
    running = stack.listeners[0]._server.server_state.tasks

    async def answer_then_raise(request: EngineRequest) -> None:
        await request.respond(status, b"{}", JSON)
        with contextlib.suppress(asyncio.CancelledError):  # an answered request is let go
            await next_one_came.wait()
        await next_one_came.wait()
        raise ZeroDivisionError

    async def answer_once_it_has_raised(request: EngineRequest) -> None:
        next_one_came.set()
        await until(lambda: len(running) == 1)
        await answer_ok(request)

    stack.engine.script = answer_then_raise
    async with stack.post() as response:
        assert response.status == {400: 400, 500: 502}[status]
    stack.engine.script = answer_once_it_has_raised
    async with stack.post() as response:
        assert response.status == 200


async def test_an_engines_error_may_arrive_in_pieces(stack: Stack) -> None:
    async def answer(request: EngineRequest) -> None:
        await request.start(400, JSON)
        await request.write(b'{"error": {"message": "n must be')
        await asyncio.sleep(0.05)
        await request.write(b' positive", "param": "n"}}')
        await request.finish()

    stack.engine.script = answer
    async with stack.post() as response:
        error = (await response.json())["error"]

    assert (error["message"], error["param"]) == ("n must be positive", "n")


async def test_errors_of_the_messages_api_have_its_envelope(stack: Stack) -> None:
    async def answer(request: EngineRequest) -> None:
        await request.respond(400, b'{"error": {"message": "bad"}}', JSON)

    stack.engine.script = answer
    async with stack.post(MESSAGES) as response:
        body = await response.json()

    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"


async def test_a_silent_engine_is_a_504(stack: Stack) -> None:
    stack.engine.script = never_answer

    async with stack.post() as response:
        assert await error_of(response) == (504, "engine_timeout")

    await asyncio.wait_for(stack.engine.aborted.wait(), ABORT_WITHIN_S)


async def test_a_stream_that_falls_silent_ends_with_an_error_event(stack: Stack) -> None:
    stack.engine.script = stream_forever

    async with stack.post() as response:
        events = (await response.text()).strip().split("\n\n")

    assert json.loads(events[1].removeprefix("data: "))["error"]["code"] == "engine_timeout"
    await asyncio.wait_for(stack.engine.aborted.wait(), ABORT_WITHIN_S)


async def test_a_slow_but_steady_engine_is_no_silent_one(stack: Stack) -> None:
    async def answer(request: EngineRequest) -> None:
        await request.start(200, EVENT_STREAM)
        for _ in range(10):
            await asyncio.sleep(0.25)
            await request.write(b"data: 1\n\n")
        await request.finish()

    stack.engine.script = answer
    async with stack.post() as response:
        assert await response.read() == b"data: 1\n\n" * 10


# --- a client that leaves, or stalls -----------------------------------------------------------


async def test_a_client_that_leaves_before_the_first_byte_aborts_the_generation(
    stack: Stack,
) -> None:
    stack.engine.script = never_answer
    async with connection(stack) as (_, writer):
        writer.write(stack.raw_post())
        await asyncio.wait_for(stack.engine.begun.wait(), DEADLINE_S)

    await asyncio.wait_for(stack.engine.aborted.wait(), ABORT_WITHIN_S)
    await stack.idle()
    assert (stack.log[0]["status"], stack.log[0]["code"]) == (499, "client_gone")


@pytest.mark.parametrize("kind", ["close", "reset"])
async def test_a_client_that_leaves_a_stream_aborts_the_generation(stack: Stack, kind: str) -> None:
    stack.engine.script = stream_forever
    async with connection(stack) as (reader, writer):
        writer.write(stack.raw_post())
        await asyncio.wait_for(reader.readuntil(b"data: 0\n\n"), DEADLINE_S)
        if kind == "close":
            writer.close()
        else:
            writer.transport.abort()
        await asyncio.wait_for(stack.engine.aborted.wait(), ABORT_WITHIN_S)

    await stack.idle()
    assert stack.log[0]["code"] == "client_gone"


async def test_a_client_that_leaves_during_its_upload_costs_nothing(stack: Stack) -> None:
    async with connection(stack) as (_, writer):
        writer.write(stack.raw_head("Content-Length: 100") + b"{")
        await writer.drain()

    await until(lambda: len(stack.log) == 1)
    assert stack.log[0]["code"] == "client_gone"
    assert stack.engine.requests == []


async def small_socket(port: int) -> socket.socket:
    """A connection whose kernel takes little, so that its owner's idleness shows soon."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, (HOST, port))
    return client


async def test_a_client_that_stops_reading_aborts_the_generation(stack: Stack) -> None:
    stack.engine.script = flood
    with await small_socket(stack.port) as client:
        await asyncio.get_running_loop().sock_sendall(client, stack.raw_post())

        await asyncio.wait_for(stack.engine.aborted.wait(), DEADLINE_S)
        await stack.idle()

        assert stack.log[0]["code"] == "client_gone"


async def test_a_stalled_client_of_a_broken_stream_is_let_go(stack: Stack) -> None:
    """The error event cannot be written either; the request must end all the same."""
    stack.engine.script = dies_after(b"data: 1\n\n", EVENT_STREAM)
    sent: list[Message] = []

    async def receive() -> Message:
        return await asyncio.Event().wait() and {}

    async def send(message: Message) -> None:
        sent.append(message)
        if len(sent) > 2:  # the head and the first event were taken
            await asyncio.Event().wait()

    exchange = Exchange({"method": "POST", "path": CHAT, "headers": []}, receive, send)
    relay = Relay(Connections(1.0), token=TOKEN, settings=GATEWAY)
    async with asyncio.timeout(LIMITS.stalled_read_timeout_s + 3):
        asked = Asked(b"{}", TenantId(TENANT))
        with pytest.raises(EngineError) as broken:
            await relay.forward(exchange, stack.listeners[0].url, asked, journal=None)
        with pytest.raises(ClientGoneError):
            await relay.fail_midway(exchange, broken.value)


async def test_a_paused_client_that_comes_back_gets_everything(stack: Stack) -> None:
    chunk = b"y" * 65536

    async def answer(request: EngineRequest) -> None:
        await request.start(200, EVENT_STREAM)
        for _ in range(64):
            await request.write(chunk)
        await request.finish()

    stack.engine.script = answer
    async with stack.post() as response:
        await asyncio.sleep(0.3)  # less than the limit: the pause itself is under test
        assert await response.read() == chunk * 64


# --- signs of life ----------------------------------------------------------------------------

STREAMED = {"model": MODEL, "stream": True}


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway looks every 50 ms, and takes four looks without a sign of life for a loss."""
    monkeypatch.setattr(relay_module, "_STALL_CHECK_S", 0.05)
    monkeypatch.setattr(relay_module, "_MAX_QUIET", 4)


@pytest.mark.usefixtures("often")
async def test_a_late_head_is_no_loss(stack: Stack) -> None:
    """A long prompt is read before it. The pauses themselves are under test."""

    async def answer(request: EngineRequest) -> None:
        await asyncio.sleep(0.5)
        await request.start(200, EVENT_STREAM)
        await asyncio.sleep(0.1)
        await request.write(b"data: 1\n\n")
        await request.finish()

    stack.engine.script = answer
    async with stack.post(body=STREAMED) as response:
        assert await response.read() == b"data: 1\n\n"


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("heartbeat_s", [0.05, 60.0])
async def test_a_quiet_stream_lives_as_long_as_it_says_so(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, heartbeat_s: float
) -> None:
    monkeypatch.setattr(journaling, "HEARTBEAT_S", heartbeat_s)

    async def answer(request: EngineRequest) -> None:
        await request.start(200, EVENT_STREAM)
        await request.write(b"data: 1\n\n")
        await asyncio.sleep(0.8)
        await request.write(b"data: 2\n\n")
        await request.finish()

    stack.engine.script = answer
    async with stack.post(body=STREAMED) as response:
        text = (await response.read()).decode()
    assert ("data: 2" in text) == (heartbeat_s < 1)
    assert ("engine_timeout" in text) == (heartbeat_s > 1)
    await stack.idle()


# --- leaks -------------------------------------------------------------------------------------


def num_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def hang_up_at_once(stack: Stack) -> None:
    async with connection(stack) as (_, writer):
        writer.write(stack.raw_post(b'{"model": "demo", "kind": "forever"}'))
        await writer.drain()


async def one_request(stack: Stack, kind: str) -> None:
    if kind == "leave":
        await hang_up_at_once(stack)
        return
    bodies = {"malformed": b"{", "unknown": b'{"model": "nope"}'}
    body = bodies.get(kind, json.dumps({"model": "demo", "kind": kind}).encode())
    async with stack.post(body=body) as response:
        with contextlib.suppress(aiohttp.ClientPayloadError):
            await response.read()


async def scripted_by_body(request: EngineRequest) -> None:
    scripts = {
        "forever": stream_forever,
        "dies": dies_after(b"data: 1\n\n", EVENT_STREAM),
        "cut": dies_after(b"{", JSON),
    }
    kind = json.loads(request.body).get("kind")
    if kind in scripts:
        await scripts[kind](request)
    elif kind == "refused":
        await request.respond(400, b"{}", JSON)
    elif kind == "broken":
        await request.respond(500, b"", JSON)
    else:
        await request.respond(200, b"data: 1\n\n", EVENT_STREAM)


async def test_hundreds_of_mixed_requests_leave_nothing_behind(stack: Stack) -> None:
    kinds = ["ok", "dies", "cut", "refused", "broken", "malformed", "unknown", "leave"]
    stack.engine.script = scripted_by_body
    footprints = []
    for _ in range(LEAK_ROUNDS + 1):
        stack.log.clear()
        for start in range(0, REQUESTS_PER_ROUND, 20):
            await asyncio.gather(
                *(one_request(stack, kinds[n % len(kinds)]) for n in range(start, start + 20))
            )
        await until(lambda: len(stack.log) == REQUESTS_PER_ROUND)
        await stack.idle()
        # Connections kept for reuse may differ in number; what they hold is counted per socket.
        await until(lambda: len(asyncio.all_tasks()) < 60)
        footprints.append((len(asyncio.all_tasks()), num_open_files()))

    (_, first_fds), *_, (last_tasks, last_fds) = footprints
    assert last_tasks == footprints[0][0]
    assert last_fds <= first_fds + 20
