"""What clients may switch in Serve: nothing; what they see of Serve: nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving.gateway.edge import HANDLED, Edge, middlewares

CONTROLS = [
    (b"x-request-timeout-seconds", b"0.001"),
    (b"x-request-disconnect-disabled", b"?0"),
    (b"serve_multiplexed_model_id", b"m"),
    (b"serve-multiplexed-model-id", b"m"),
]
Head = list[tuple[bytes, bytes]]


class App:
    """Serve and the gateway behind the edge: one answer, by the gateway or by Serve itself."""

    def __init__(self, status: int = 200, *, by_gateway: bool = True) -> None:
        self._status = status
        self._by_gateway = by_gateway
        self.headers: Head = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.headers = scope["headers"]
        if self._by_gateway:
            scope.get(HANDLED, []).append(True)
        headers = [(b"X-Request-ID", b"as-serve-adds-it"), (b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": self._status, "headers": headers})
        await send({"type": "http.response.body", "body": b"Traceback", "more_body": True})
        await send({"type": "http.response.body", "body": b" of Serve"})


async def answer(app: Any, *, headers: Head | None = None, path: str = "/v1/models") -> Any:
    """Status, head and body of what the edge lets through."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "path": path, "headers": headers or []}
    await Edge(app)(scope, receive, send)
    assert [message["type"] for message in sent].count("http.response.start") == 1
    assert not sent[-1].get("more_body", False)
    return sent[0]["status"], sent[0]["headers"], b"".join(m["body"] for m in sent[1:])


def values(headers: Head, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]


async def test_control_headers_are_taken_away() -> None:
    app = App()
    await answer(app, headers=[*CONTROLS, (b"accept", b"*/*")])

    assert (b"accept", b"*/*") in app.headers
    assert values(app.headers, b"x-request-disconnect-disabled") == [b"?1"]
    assert {name for name, _ in app.headers} == {
        b"accept", b"x-request-id", b"x-request-disconnect-disabled"
    }  # fmt: skip


@pytest.mark.parametrize("request_id", [b"a", b"req-1.2:3_4", b"x" * 128])
async def test_a_safe_request_id_is_kept(request_id: bytes) -> None:
    app = App()
    await answer(app, headers=[(b"x-request-id", request_id)])
    assert values(app.headers, b"x-request-id") == [request_id]


@pytest.mark.parametrize("request_id", [b"", b"x" * 129, b"a b", b"a\n", b'"', b"\xff", b"%s"])
async def test_an_unsafe_request_id_is_replaced(request_id: bytes) -> None:
    app = App()
    await answer(app, headers=[(b"x-request-id", request_id)])

    (replaced,) = values(app.headers, b"x-request-id")
    assert replaced != request_id
    assert replaced.startswith(b"req-")


async def test_of_two_request_ids_one_remains() -> None:
    app = App()
    await answer(app, headers=[(b"x-request-id", b"a"), (b"x-request-id", b"b")])
    assert values(app.headers, b"x-request-id") == [b"a"]


async def test_new_request_ids_differ() -> None:
    apps = [App(), App()]
    for app in apps:
        await answer(app)
    assert apps[0].headers != apps[1].headers


@pytest.mark.parametrize(
    ("status", "code", "error_type"),
    [
        (503, "gateway_overloaded", "overloaded_error"),
        (500, "internal_error", "api_error"),
        (408, "internal_error", "api_error"),
        (404, "internal_error", "api_error"),
    ],
)
async def test_serves_own_error_pages_are_translated(
    status: int, code: str, error_type: str
) -> None:
    answered, headers, body = await answer(App(status, by_gateway=False))

    assert answered == status
    assert json.loads(body)["error"] | {"message": ""} == {
        "message": "", "type": error_type, "param": None, "code": code
    }  # fmt: skip
    assert values(headers, b"content-length") == [b"%d" % len(body)]
    assert values(headers, b"content-type") == [b"application/json"]
    assert values(headers, b"x-request-id") == [b"as-serve-adds-it"]
    assert values(headers, b"retry-after")


@pytest.mark.parametrize("by_gateway", [True, False])
@pytest.mark.parametrize("status", [200, 503])
async def test_anthropics_sdks_are_told_the_request_id(status: int, by_gateway: bool) -> None:
    asked: Head = [(b"x-request-id", b"mine"), (b"request-id", b"theirs")]
    app = App(status, by_gateway=by_gateway)

    _, headers, body = await answer(app, headers=asked, path="/v1/messages")

    assert values(headers, b"request-id") == [b"mine"]
    if status == 503 and not by_gateway:
        assert json.loads(body)["type"] == "error"


async def test_nobody_else_is() -> None:
    _, headers, _ = await answer(App(), path="/v1/chat/completions")
    assert values(headers, b"request-id") == []


@pytest.mark.parametrize("status", [200, 400, 401, 500, 502, 503])
async def test_the_gateways_own_answers_pass(status: int) -> None:
    assert (await answer(App(status)))[::2] == (status, b"Traceback of Serve")


async def test_serves_good_answers_pass() -> None:
    assert (await answer(App(200, by_gateway=False)))[2] == b"Traceback of Serve"


@pytest.mark.parametrize("path", ["/-/healthz", "/-/routes"])
async def test_serves_own_paths_are_left_alone(path: str) -> None:
    app = App(503, by_gateway=False)

    answered, _, body = await answer(app, headers=CONTROLS, path=path)

    assert (answered, body) == (503, b"Traceback of Serve")
    assert app.headers == CONTROLS


async def test_what_is_not_http_is_left_alone() -> None:
    scopes = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)

    await Edge(app)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert scopes == [{"type": "lifespan"}]


async def test_serve_can_construct_what_the_callback_gives() -> None:
    (middleware,) = middlewares()
    assert isinstance(middleware.cls(App(), *middleware.args, **middleware.kwargs), Edge)
