"""What the gateway refuses, how it says so, and that nobody else pays for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_gateway_stack import (
    CHAT,
    DEADLINE_S,
    GATEWAY,
    HOST,
    LIMITS,
    MODEL,
    EngineRequest,
    Stack,
    connection,
    error_of,
    running_stack,
    salted,
    until,
)

from serving.adapters.key_store import KeyFile
from serving.gateway.routes import ROUTES, Action

LINGER_S = 2.0
REVOKED_WITHIN_S = 5.0


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path) as running:
        yield running


async def raw_exchange(stack: Stack, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """The answer to bytes that no HTTP client would send; the server ends the connection."""
    async with asyncio.timeout(DEADLINE_S), connection(stack) as (reader, writer):
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(head[0].split()[1]), headers, body


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (400, "invalid_json")),
        (b"{", (400, "invalid_json")),
        (b"[]", (400, "invalid_type")),
        (b'"x"', (400, "invalid_type")),
        (b"null", (400, "invalid_type")),
        (b"{}", (400, "missing_model")),
        (b'{"model": 1}', (400, "invalid_type")),
        (b'{"model": null}', (400, "invalid_type")),
        (b'{"model": "demo", "stream": "yes"}', (400, "invalid_type")),
        (b'{"model": "nope"}', (404, "model_not_found")),
        (b'{"model": ""}', (404, "model_not_found")),
        (b'{"model": "\\ud800"}', (400, "invalid_json")),
        (b'{"model": "' + b"x" * 100_000 + b'"}', (404, "model_not_found")),
        (b'{"model": "\xff"}', (400, "invalid_utf8")),
        (b'{"model": "demo", "x": ' + b"[" * 65 + b"]" * 65 + b"}", (400, "json_too_deep")),
        (b"[" * 1_000_000, (400, "json_too_deep")),
        (b'{"model":"demo"}garbage', (400, "invalid_json")),
        (b'{"model": "demo", "n": 1000}', (400, "too_many_choices")),
        (b'{"model": "demo", "messages": [{"role": "user", "content": 5}]}', (400, "invalid_type")),
        (b'{"model": "demo", "tools": [{"x": "\\ud800"}]}', (400, "invalid_json")),
        (
            b'{"model": "demo", "structured_outputs": {"json": {"minItems": 1000000000}}}',
            (400, "schema_too_large"),
        ),
        (b'{"model": "demo", "stop": [' + b"5," * 200_000 + b"5]}", (400, "too_many_values")),
        (
            b'{"model": "demo", "x": "' + b"x" * LIMITS.max_body_bytes + b'"}',
            (413, "body_too_large"),
        ),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_a_bad_body_is_refused_before_an_engine_sees_it(
    stack: Stack, body: bytes, expected: tuple[int, str]
) -> None:
    async with stack.post(body=body) as response:
        assert await error_of(response) == expected
        assert len(await response.read()) < 1000

    assert stack.engine.requests == []
    async with stack.post() as response:
        assert response.status == 200


async def test_a_chunked_body_is_held_to_the_limit(stack: Stack) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(LIMITS.max_body_bytes // 65536 + 2):
            yield b" " * 65536

    headers = {"authorization": f"Bearer {stack.key}", "content-type": "application/json"}
    async with stack.client.post(stack.url + CHAT, data=parts(), headers=headers) as response:
        assert await error_of(response) == (413, "body_too_large")


async def test_one_tenant_cannot_fill_the_memory_for_bodies(tmp_path: Path) -> None:
    """A body is held as long as its request runs; then there is room again."""
    limits = LIMITS.model_copy(update={"max_body_bytes": 300_000, "max_held_bytes": 1_000_000})
    settings = GATEWAY.model_copy(update={"limits": limits})
    large = json.dumps({"model": MODEL, "x": "x" * 240_000}).encode()
    async with running_stack(tmp_path, settings=settings) as stack:
        other, _ = stack.keys.create("other")
        by_other = {"authorization": f"Bearer {other}"}
        can_go = asyncio.Event()

        async def answer(request: EngineRequest) -> None:
            await can_go.wait()
            await request.respond(200, b"{}")

        stack.engine.script = answer
        running = [asyncio.create_task(status_of(stack, large)) for _ in range(2)]
        await until(lambda: len(stack.engine.requests) == 2)
        async with stack.post(body=large) as response:
            assert await error_of(response) == (503, "gateway_overloaded")
            assert response.headers["retry-after"] == "1"
        running.append(asyncio.create_task(status_of(stack, large, headers=by_other)))
        await until(lambda: len(stack.engine.requests) == 3)
        assert held_bytes(stack) == 3 * len(large)
        can_go.set()
        assert await asyncio.gather(*running) == [200, 200, 200]
        assert await status_of(stack, large) == 200
        await until(lambda: held_bytes(stack) == 0)


async def status_of(stack: Stack, body: bytes, **options: Any) -> int:
    async with stack.post(body=body, **options) as response:
        await response.read()
        return int(response.status)


def held_bytes(stack: Stack) -> float | None:
    return stack.registry.get_sample_value("galerne_gateway_held_body_bytes")


@pytest.mark.parametrize("media_type", ["text/plain", "multipart/form-data", "application/xml"])
async def test_another_media_type_is_a_415(stack: Stack, media_type: str) -> None:
    async with stack.post(headers={"content-type": media_type}) as response:
        assert await error_of(response) == (415, "unsupported_media_type")


@pytest.mark.parametrize("encoding", ["gzip", "br", "gzip, identity"])
async def test_a_compressed_body_is_a_415_that_says_so(stack: Stack, encoding: str) -> None:
    async with stack.post(body=b"\x1f\x8b", headers={"content-encoding": encoding}) as response:
        assert await error_of(response) == (415, "unsupported_content_encoding")
        assert response.headers["accept-encoding"] == "identity"
    async with stack.post(headers={"content-encoding": "identity"}) as response:
        assert response.status == 200


async def test_a_large_head_is_a_431(stack: Stack) -> None:
    status, _, body = await raw_exchange(
        stack, stack.raw_post(b"{}", "X-Big: " + "a" * LIMITS.max_header_bytes)
    )
    assert (status, json.loads(body)["error"]["code"]) == (431, "headers_too_large")


@pytest.mark.parametrize(
    "path", ["/", "/metrics", "/v1", "/v1/", "/v1/models/", "/v1/chat/completions/", "/v1/load"]
)
async def test_unknown_paths_are_a_404(stack: Stack, path: str) -> None:
    async with stack.get(path) as response:
        assert await error_of(response) == (404, "unknown_path")


@pytest.mark.parametrize(
    "path", ["//v1/models", "/v1/../metrics", "/%2e%2e/metrics", "/v1/mod%65l"]
)
async def test_odd_paths_are_a_404(stack: Stack, path: str) -> None:
    status, _, body = await raw_exchange(stack, stack.raw_head(path=path, method="GET"))

    assert (status, json.loads(body)["error"]["code"]) == (404, "unknown_path")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_a_wrong_method_is_a_405_that_names_the_right_one(stack: Stack, method: str) -> None:
    async with stack.client.request(
        method, stack.url + CHAT, headers={"authorization": f"Bearer {stack.key}"}
    ) as response:
        assert await error_of(response) == (405, "method_not_allowed")
        assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "path", [path for path, route in ROUTES.items() if route.action is Action.RELAY]
)
async def test_every_inference_path_reaches_the_engine(stack: Stack, path: str) -> None:
    async with stack.post(path) as response:
        assert response.status == 200

    assert [request.path for request in stack.engine.requests] == [path]


async def test_a_lora_adapter_is_served_by_its_model(stack: Stack) -> None:
    async with stack.post(body={"model": "tuned"}) as response:
        assert response.status == 200


async def test_models_are_listed_and_shown(stack: Stack) -> None:
    async with stack.get("/v1/models") as response:
        entries = (await response.json())["data"]
    async with stack.get("/v1/models/tuned") as response:
        shown = await response.json()
    async with stack.get("/v1/models/nope") as response:
        assert await error_of(response) == (404, "model_not_found")

    assert [entry["id"] for entry in entries] == ["demo", "tuned"]
    assert shown == {
        "id": "tuned", "object": "model", "created": 1, "owned_by": "galerne", "parent": "demo"
    }  # fmt: skip


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/models/demo"])
async def test_head_is_answered_as_get_without_a_body(stack: Stack, path: str) -> None:
    async with stack.get(path) as response:
        length = len(await response.read())

    status, headers, rest = await raw_head(stack, path)

    assert (status, rest) == (200, b"")
    assert int(headers["content-length"]) == length
    assert headers["content-type"] == "application/json"
    await until(lambda: len(stack.log) == 2)
    assert stack.log[1]["bytes_sent"] == 0


async def test_a_refusal_of_head_has_no_body(stack: Stack) -> None:
    for path, expected in [(CHAT, 405), ("/nothing", 404)]:
        status, _, rest = await raw_head(stack, path)
        assert (status, rest) == (expected, b"")


async def raw_head(stack: Stack, path: str) -> tuple[int, dict[str, str], bytes]:
    """The answer to HEAD, and whatever comes after its head until the server hangs up."""
    request = stack.raw_head("Connection: close", path=path, method="HEAD")
    async with asyncio.timeout(DEADLINE_S), connection(stack) as (reader, writer):
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        rest = await reader.read()
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), headers, rest


async def test_a_get_route_names_both_of_its_methods(stack: Stack) -> None:
    async with stack.post("/v1/models") as response:
        assert await error_of(response) == (405, "method_not_allowed")
        assert response.headers["allow"] == "GET, HEAD"


async def test_health_needs_no_key(stack: Stack) -> None:
    async with stack.get("/health", headers={}) as response:
        assert (response.status, await response.json()) == (200, {"status": "ok"})


# --- API keys ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({"authorization": "Basic eDp5"}, "missing_api_key"),
        ({"authorization": "Bearer nonsense"}, "invalid_api_key"),
        ({"authorization": "Bearer \xff\xfe"}, "invalid_api_key"),
        ({"x-api-key": "gal_aaaaaaaaaaaa_" + "A" * 43}, "invalid_api_key"),
        ({"x-api-key": "a", "authorization": "Bearer b"}, "ambiguous_credentials"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/nothing"])
async def test_nobody_gets_in_without_a_key(
    stack: Stack, headers: dict[str, str], code: str, path: str
) -> None:
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    async with httpx.AsyncClient() as client:
        response = await client.post(stack.url + path, json={"model": "demo"}, headers=raw)

    assert response.status_code == 401
    assert response.json()["error"]["code"] == code
    assert response.headers["www-authenticate"] == "Bearer"
    assert stack.engine.requests == []


async def test_anthropic_clients_send_the_key_in_their_own_header(stack: Stack) -> None:
    async with stack.client.post(
        stack.url + "/v1/messages", json={"model": "demo"}, headers={"x-api-key": stack.key}
    ) as response:
        assert response.status == 200


async def test_a_revoked_key_stops_working(stack: Stack) -> None:
    async def status() -> int:
        async with stack.get("/v1/models") as response:
            return int(response.status)

    assert await status() == 200
    stack.keys.revoke("tests")
    async with asyncio.timeout(REVOKED_WITHIN_S):
        while await status() == 200:
            pass
    async with stack.get("/v1/models") as response:
        assert await error_of(response) == (401, "revoked_api_key")


async def test_an_expired_key_is_refused_and_told_so(stack: Stack, tmp_path: Path) -> None:
    made = datetime.now(UTC) - timedelta(days=1)
    keys = KeyFile(tmp_path / "keys.json", now=lambda: made)
    key, _ = keys.create("old", expires_at=made + timedelta(hours=1))

    async with stack.get("/v1/models", headers={"authorization": f"Bearer {key}"}) as response:
        assert await error_of(response) == (401, "expired_api_key")
        assert "expired" in (await response.json())["error"]["message"]


async def test_a_revoked_key_does_not_cut_a_running_answer(stack: Stack) -> None:
    revoked = asyncio.Event()

    async def answer(request: EngineRequest) -> None:
        await request.start(200)
        await request.write(b"a")
        await revoked.wait()
        await request.write(b"b")
        await request.finish()

    stack.engine.script = answer
    async with stack.post() as response:
        assert await response.content.readany() == b"a"
        stack.keys.revoke("tests")
        revoked.set()
        assert await response.read() == b"b"


# --- slow and rude clients ---------------------------------------------------------------------


async def test_an_upload_that_stops_is_a_408(stack: Stack) -> None:
    started = asyncio.get_running_loop().time()
    status, headers, body = await raw_exchange(
        stack, stack.raw_head("Content-Length: 100") + b'{"model"'
    )

    assert (status, json.loads(body)["error"]["code"]) == (408, "upload_timeout")
    assert headers["connection"] == "close"
    elapsed_s = asyncio.get_running_loop().time() - started
    assert elapsed_s < LIMITS.upload_timeout_s + LINGER_S + 1


async def test_an_upload_of_a_byte_now_and_then_is_a_408(stack: Stack) -> None:
    async with asyncio.timeout(DEADLINE_S), connection(stack) as (reader, writer):
        writer.write(stack.raw_head("Content-Length: 10000"))
        answer = asyncio.create_task(reader.readline())
        while not answer.done():
            writer.write(b" ")
            await asyncio.wait({answer}, timeout=0.05)
        assert (await answer).split()[1] == b"408"


async def test_a_refused_upload_still_reads_its_answer(stack: Stack) -> None:
    """Without a lingering close the client sees a reset instead of the reason."""
    body = b" " * (3 * 1024 * 1024)
    async with connection(stack) as (reader, writer):
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        assert (await reader.readline()).split()[1] == b"401"


async def test_an_expected_upload_is_invited_only_if_it_is_wanted(stack: Stack) -> None:
    async with asyncio.timeout(DEADLINE_S), connection(stack) as (reader, writer):
        writer.write(stack.raw_head("Content-Length: 17", "Expect: 100-continue"))
        assert (await reader.readline()).split()[1] == b"100"
        await reader.readline()
        writer.write(b'{"model": "demo"}')
        assert (await reader.readline()).split()[1] == b"200"


async def test_a_connection_is_used_again_after_an_error(stack: Stack) -> None:
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {stack.key}"}) as client:
        for body, status in [(b"{", 400), (b'{"model": "demo"}', 200), (b"{}", 400)]:
            headers = {"content-type": "application/json"}
            response = await client.post(stack.url + CHAT, content=body, headers=headers)
            assert response.status_code == status
            assert "connection" not in response.headers


@pytest.mark.parametrize(
    ("fields", "message", "expected"),
    [
        (b', "structured_outputs": {}', "Internal server error", (400, "grammar_failed")),
        (b', "structured_outputs": {}', "EngineCore died", (502, "engine_error")),
        (b"", "Internal server error", (502, "generation_failed")),
    ],
)
async def test_a_grammar_that_the_engine_fails_on_is_not_worth_a_retry(
    stack: Stack, fields: bytes, message: str, expected: tuple[int, str]
) -> None:
    async def fail(request: EngineRequest) -> None:
        await request.respond(500, json.dumps({"error": {"message": message}}).encode())

    stack.engine.script = fail
    async with stack.post(body=b'{"model": "demo"%b}' % fields) as response:
        assert await error_of(response) == expected


async def test_requests_on_one_connection_are_answered_in_order(stack: Stack) -> None:
    async def answer(request: EngineRequest) -> None:
        await request.respond(200, request.body)

    stack.engine.script = answer
    bodies = [b'{"model": "demo", "n": %d}' % n for n in range(3)]
    async with asyncio.timeout(DEADLINE_S), connection(stack) as (reader, writer):
        writer.write(b"".join(stack.raw_post(body) for body in bodies))
        for body in bodies:
            await reader.readuntil(b"\r\n\r\n")
            raw = await reader.readuntil(salted(body) + b"\r\n0\r\n\r\n")
            assert salted(body) in raw


@pytest.mark.parametrize(
    "request_bytes",
    [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nbad header\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n"],
)
async def test_what_is_not_http_is_a_400(stack: Stack, request_bytes: bytes) -> None:
    status, _, body = await raw_exchange(stack, request_bytes)
    assert status == 400
    assert HOST.encode() not in body


@pytest.mark.parametrize("target", ["gateway", "engine"])
async def test_websockets_are_declined(
    stack: Stack, target: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = stack.url if target == "gateway" else stack.listeners[0].url
    headers = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }  # fmt: skip
    async with stack.client.get(f"{url}/v1/realtime", headers=headers) as response:
        assert response.status in {401, 403, 404}

    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


# --- request ids and the API description -------------------------------------------------------


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, "<script>", "\xff"])
async def test_a_bad_request_id_is_replaced(stack: Stack, sent: str) -> None:
    _, headers, _ = await raw_exchange(
        stack, stack.raw_head(f"X-Request-Id: {sent}", path="/v1/models", method="GET")
    )
    assert headers["x-request-id"].startswith("req-")
    await until(lambda: len(stack.log) == 1)
    assert stack.log[0]["request_id"] == headers["x-request-id"]


async def test_serve_control_headers_change_nothing(stack: Stack) -> None:
    headers = {"x-request-timeout-seconds": "0.000001", "x-request-disconnect-disabled": "?1"}
    async with stack.post(headers=headers) as response:
        assert response.status == 200


ENGINE_DESCRIPTION: dict[str, Any] = {
    "openapi": "3.1.0",
    "paths": {CHAT: {"post": {"responses": {"200": {"description": "ok"}, "400": {}}}}},
}


async def test_the_api_description_is_public(stack: Stack) -> None:
    async def answer(request: EngineRequest) -> None:
        content = json.dumps(ENGINE_DESCRIPTION).encode()
        await request.respond(200, content, (b"content-type", b"application/json"))

    stack.engine.script = answer
    for _ in range(2):
        async with stack.get("/openapi.json", headers={}) as response:
            assert response.status == 200
            assert CHAT in (await response.json())["paths"]

    assert [request.path for request in stack.engine.requests] == ["/openapi.json"]


async def test_without_a_replica_the_api_description_is_a_retryable_error(stack: Stack) -> None:
    stack.offer()
    async with stack.get("/openapi.json", headers={}) as response:
        assert await error_of(response) == (503, "model_not_ready")


@pytest.mark.parametrize("answer", [b"{", b"[]", b"{}"])
async def test_a_broken_api_description_is_the_engines_fault(stack: Stack, answer: bytes) -> None:
    async def broken(request: EngineRequest) -> None:
        await request.respond(200, answer, (b"content-type", b"application/json"))

    stack.engine.script = broken
    async with stack.get("/openapi.json", headers={}) as response:
        status, code = await error_of(response)

    assert (status, code != "internal_error") == (502, True)


async def test_a_dead_engine_has_no_api_description(stack: Stack) -> None:
    await stack.listeners[0].stop()

    async with stack.get("/openapi.json", headers={}) as response:
        status, code = await error_of(response)

    assert status in {502, 503}
    assert code != "internal_error"


# --- operators see how their requests are routed -------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_an_operator_is_told_the_route(stack: Stack, stream: bool) -> None:
    key, _ = stack.keys.create("operator", is_operator=True)
    headers = {"authorization": f"Bearer {key}", "x-galerne-explain": "1"}
    body = {"model": MODEL, "messages": [], "stream": stream}
    async with stack.post(CHAT, body, headers=headers) as response:
        assert response.status == 200
        route = json.loads(response.headers["x-galerne-route"])
    assert route["replica"] == stack.replica(0).id
    assert route["reason"] == "only one"
    assert [row["replica"] for row in route["candidates"]] == [stack.replica(0).id]
    assert not stack.engine.requests[0].header(b"x-galerne-explain")


async def test_nobody_else_is_told_the_route(stack: Stack) -> None:
    async with stack.post(headers={"x-galerne-explain": "1"}) as response:
        assert await error_of(response) == (403, "operator_key_required")
    key, _ = stack.keys.create("operator", is_operator=True)
    async with stack.post(headers={"authorization": f"Bearer {key}"}) as response:
        assert response.status == 200
        assert "x-galerne-route" not in response.headers
