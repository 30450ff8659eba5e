"""Everything a client can get wrong, while another client goes on being served."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from e2e.harness import (
    HEADER_TIMEOUT_S,
    LINGER_S,
    MAX_BODY_BYTES,
    MODEL,
    UPLOAD_TIMEOUT_S,
    Platform,
    assert_error,
    chat,
    error_of,
    values_of,
    wait_until,
)
from e2e.raw import Answer, ask, head, timed, wire

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
SLACK_S = 4
"""What a busy machine adds to a bound."""


class Bystander:
    """A well-behaved client that asks without pause, streaming every other time."""

    def __init__(self, platform: Platform) -> None:
        self.failures: list[str] = []
        self.num_answers = 0
        self._platform = platform
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=60)

    def _run(self) -> None:
        with self._platform.client() as client:
            for stream in itertools.cycle([False, True]):
                if self._stop.is_set():
                    return
                try:
                    self._ask(client, stream)
                    self.num_answers += 1
                except Exception as error:
                    self.failures.append(repr(error))

    def _ask(self, client: httpx.Client, stream: bool) -> None:
        options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        answer = client.post(CHAT, json=chat(max_tokens=8, ignore_eos=True, **options))
        assert answer.status_code == 200, answer.text
        text = answer.text.split("data: ")[-2] if stream else answer.text
        assert json.loads(text)["usage"]["completion_tokens"] == 8, answer.text


@pytest.fixture(scope="module")
def bystander(platform: Platform) -> Iterator[Bystander]:
    client = Bystander(platform)
    client.start()
    yield client
    wait_until(lambda: client.num_answers > 3 or client.failures, timeout_s=60)
    client.stop()
    assert not client.failures
    print(f"the bystander got {client.num_answers} answers")


@pytest.fixture(autouse=True)
def _nobody_else_suffers(bystander: Bystander) -> Iterator[None]:
    """The bystander loses no answer; its requests overlap tests, so the next one may show it."""
    yield
    assert not bystander.failures


def expect(answer: Answer | None, status: int, code: str | None) -> Answer:
    assert answer is not None, "closed without an answer"
    assert_error(answer.status, answer.header, answer.body, expect=(status, code))
    return answer


def post(client: httpx.Client, content: bytes, path: str = CHAT) -> httpx.Response:
    return client.post(path, content=content, headers=JSON)


BODIES: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 400, "invalid_json"),
    "truncated": (b'{"model": "demo", "messages": [', 400, "invalid_json"),
    "not-json": (b"model=demo", 400, "invalid_json"),
    "trailing": (json.dumps(chat()).encode() + b"}", 400, "invalid_json"),
    "array": (b"[]", 400, "invalid_type"),
    "null": (b"null", 400, "invalid_type"),
    "nan": (b'{"model": "demo", "temperature": NaN}', 400, "invalid_json"),
    "no-model": (b'{"messages": []}', 400, "missing_model"),
    "model-number": (b'{"model": 5}', 400, "invalid_type"),
    "model-null": (b'{"model": null}', 400, "invalid_type"),
    "stream-string": (b'{"model": "demo", "stream": "yes"}', 400, "invalid_type"),
    "model-unknown": (b'{"model": "../../etc/passwd"}', 404, "model_not_found"),
    "model-long": (b'{"model": "' + b"a" * 100_000 + b'"}', 404, "model_not_found"),
    "utf8": (b'{"model": "demo\xff"}', 400, "invalid_utf8"),
    "utf16": ('{"model": "demo"}'.encode("utf-16"), 400, "invalid_utf8"),
    "surrogate": (b'{"model": "\\ud800"}', 400, "invalid_json"),
    "brackets": (b"[" * 100_000, 400, "json_too_deep"),
    "closed-brackets": (b"[" * 100_000 + b"]" * 100_000, 400, "json_too_deep"),
    "braces": (b'{"model":"demo","a":' + b'{"a":' * 30_000, 400, "json_too_deep"),
}


@pytest.mark.parametrize("name", BODIES)
def test_bad_body(client: httpx.Client, name: str) -> None:
    content, status, code = BODIES[name]
    error_of(post(client, content), status, code)


FIELDS: dict[str, dict[str, Any]] = {
    "messages-number": {"messages": 5},
    "messages-string": {"messages": "hello"},
    "messages-null": {"messages": None},
    "messages-empty": {"messages": []},
    "role-missing": {"messages": [{"content": "x"}]},
    "content-object": {"messages": [{"role": "user", "content": {"a": 1}}]},
    "image": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "http://[::1]:1/x"}}],
            }
        ]
    },
    "temperature-string": {"temperature": "hot"},
    "temperature-negative": {"temperature": -1},
    "max-tokens-zero": {"max_tokens": 0},
    "max-tokens-negative": {"max_tokens": -5},
    "max-tokens-float": {"max_tokens": 1.5},
    "seed-huge": {"seed": 10**40},
    "n-huge": {"n": 10**9, "temperature": 1},
    "logprobs-huge": {"logprobs": True, "top_logprobs": 10**9},
    "logit-bias-outside": {"logit_bias": {"99999999": 1}},
    "stop-number": {"stop": 5},
    "schema-invalid": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "nonsense"}},
        }
    },
    "regex-invalid": {"structured_outputs": {"regex": "("}},
    "chat-template": {"chat_template": "{{ 1 / 0 }}"},
    "nested-as-allowed": {"messages": json.loads("[" * 60 + "]" * 60)},
}


@pytest.mark.parametrize("name", FIELDS)
def test_bad_field(client: httpx.Client, name: str) -> None:
    error_of(client.post(CHAT, json=chat(**FIELDS[name])), 400, None)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat("wave " * 5000)),
        (CHAT, chat("wave " * 5000, stream=True)),
        (CHAT, chat(max_tokens=5000)),
        (CHAT, chat(max_tokens=10**30)),
        ("/v1/completions", {"model": MODEL, "prompt": "wave " * 5000}),
        ("/v1/completions", {"model": MODEL, "prompt": [5] * 5000}),
        ("/v1/responses", {"model": MODEL, "input": "wave " * 5000}),
        ("/v1/responses", {"model": MODEL, "input": "a", "max_output_tokens": 5000}),
        ("/v1/messages", chat("wave " * 5000)),
        ("/v1/messages", chat(max_tokens=5000)),
    ],
)
def test_prompt_and_answer_do_not_fit(client: httpx.Client, path: str, body: Any) -> None:
    error_of(client.post(path, json=body), 400, "context_length_exceeded")


def test_a_request_that_vllm_raises_on_costs_the_next_one_nothing(client: httpx.Client) -> None:
    """Seen: the next one waited 10 s on a connection that the engine had closed, and got a 503."""
    for _ in range(3):
        raises = chat(structured_outputs={"grammar": "start: start start"})
        error_of(client.post(CHAT, json=raises), 400, "grammar_failed")
        assert client.post(CHAT, json=chat()).status_code == 200


def test_declared_body_too_large(platform: Platform) -> None:
    length = f"content-length: {10**12}"
    begun = time.monotonic()
    expect(ask(platform, head(platform, f"POST {CHAT}", length)), 413, "body_too_large")
    assert time.monotonic() - begun < LINGER_S + SLACK_S


@pytest.mark.parametrize("chunked", [False, True])
def test_sent_body_too_large(client: httpx.Client, chunked: bool) -> None:
    content = b" " * (2 * MAX_BODY_BYTES)
    sent = iter([content[:MAX_BODY_BYTES], content[MAX_BODY_BYTES:]]) if chunked else content
    answer = client.post(CHAT, content=sent, headers=JSON)
    error_of(answer, 413, "body_too_large")


def test_endless_chunked_body(platform: Platform) -> None:
    with wire(platform.address) as connection:
        connection.send(head(platform, f"POST {CHAT}", "transfer-encoding: chunked"))
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        for _ in range(40):
            try:
                connection.send(chunk)
            except ConnectionError:
                break
        answer = connection.answer()
    if answer is not None:
        expect(answer, 413, "body_too_large")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "unknown_path"),
        ("POST", "/v1", 404, "unknown_path"),
        ("GET", "/metrics", 404, "unknown_path"),
        ("POST", "/invocations", 404, "unknown_path"),
        ("GET", "/v1/models/", 404, "unknown_path"),
        ("GET", "/v1/models/a/b", 404, "model_not_found"),
        ("GET", "/galerne/fleet", 401, "internal_only"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("PUT", "/v1/models/demo", 405, "method_not_allowed"),
        ("OPTIONS", CHAT, 405, "method_not_allowed"),
        ("PATCH", "/health", 405, "method_not_allowed"),
        ("BREW", "/v1/models", 405, "method_not_allowed"),
    ],
)
def test_unknown_path_or_method(
    client: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    answer = client.request(method, path)
    error_of(answer, status, code)
    if status == 405:
        assert ("POST" if path == CHAT else "GET") in answer.headers["allow"].split(", ")


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/models", 200), ("/health", 200), ("/openapi.json", 200), (CHAT, 405), ("/nothing", 404)],
)
def test_head_has_no_body(client: httpx.Client, path: str, status: int) -> None:
    answer = client.head(path)
    assert answer.status_code == status
    assert answer.content == b""
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "target",
    [
        "//v1/models",
        "/v1/../metrics",
        "/v1/%2e%2e/metrics",
        "/v1/models/%2e%2e/%2e%2e/metrics",
        "/v1/models/..%2f..%2fmetrics",
        "/V1/models",
        "/v1/models%00",
        "/v1/models;x",
        "/%76%31/nothing",
        "/galerne%2fstate",
        "/galerne/state",
        "/./metrics",
        "/" + "a" * 8000,
        "http://galerne/metrics",
        "/-/routes",
        "*",
    ],
)
def test_path_tricks(platform: Platform, target: str) -> None:
    answer = ask(platform, head(platform, f"GET {target}"), method="GET")
    assert answer is not None
    assert 400 <= answer.status < 500, answer
    expect(answer, answer.status, None)


def test_query_strings_are_ignored(client: httpx.Client) -> None:
    assert client.get("/v1/models?x=1&x=%ff&%00").status_code == 200
    assert client.post(CHAT + "?model=other&stream=1", json=chat()).status_code == 200


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({"authorization": ""}, "missing_api_key"),
        ({"authorization": "Basic dTpw"}, "missing_api_key"),
        ({"authorization": "Bearer nonsense"}, "invalid_api_key"),
        ({"x-api-key": "gal_aaaaaaaaaaaa_" + "A" * 43}, "invalid_api_key"),
        ({"authorization": "Bearer " + "é" * 50}, "invalid_api_key"),
        ({"authorization": "Bearer a", "x-api-key": "b"}, "ambiguous_credentials"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/tokenize", "/nothing"])
def test_no_key(platform: Platform, path: str, headers: dict[str, str], code: str) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    method = "GET" if path == "/v1/models" else "POST"
    with platform.anonymous(headers=encoded) as client:
        answer = client.request(method, path, json=chat())
    error_of(answer, 401, code)
    assert answer.headers["www-authenticate"] == "Bearer"


def test_wrong_secret_of_a_known_id(platform: Platform) -> None:
    forged = platform.key[:-1] + ("A" if platform.key[-1] != "A" else "B")
    with platform.anonymous(headers={"x-api-key": forged}) as client:
        error_of(client.get("/v1/models"), 401, "invalid_api_key")


def test_revoked_key_stops_working_everywhere(platform: Platform) -> None:
    key = platform.create_key("to-be-revoked")

    def statuses() -> set[int]:
        request = head(platform, "GET /v1/models", f"x-api-key: {key}", authorized=False)
        answers = [ask(platform, request, method="GET") for _ in range(12)]
        return {answer.status for answer in answers if answer}

    wait_until(lambda: statuses() == {200}, timeout_s=5, what="the new key works everywhere")
    assert platform.run("keys", "revoke", "to-be-revoked").returncode == 0
    wait_until(lambda: statuses() == {401}, timeout_s=5, what="the revoked key works nowhere")
    with platform.anonymous(headers={"x-api-key": key}) as client:
        error_of(client.get("/v1/models"), 401, "revoked_api_key")


def test_unsupported_media_type(client: httpx.Client) -> None:
    for media_type in ("text/plain", "multipart/form-data; boundary=x", "application/jsonx"):
        answer = client.post(CHAT, content=b"{}", headers={"content-type": media_type})
        error_of(answer, 415, "unsupported_media_type")


def test_absent_media_type_is_taken_as_json(platform: Platform) -> None:
    content = json.dumps(chat()).encode()
    length = f"content-length: {len(content)}"
    answer = ask(platform, head(platform, f"POST {CHAT}", length) + content)
    assert answer is not None
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("num_bytes", [20_000, 40_000, 70_000])
def test_head_too_large(client: httpx.Client, num_bytes: int) -> None:
    """Above the gateway's limit, below HAProxy's buffer."""
    answer = client.get("/v1/models", headers={"x-padding": "a" * num_bytes})
    error_of(answer, 431, "headers_too_large")


def test_head_too_large_for_the_buffer(platform: Platform) -> None:
    answer = ask(platform, head(platform, "GET /v1/models", "x-padding: " + "a" * 200_000))
    assert answer is None or 400 <= answer.status < 500


def test_body_dribbled(platform: Platform) -> None:
    request = head(platform, f"POST {CHAT}", "content-length: 1000") + b'{"model"'
    answer, elapsed_s = timed(platform, request + b" " * 60, period_s=0)
    assert answer is None or answer.status == 408
    assert elapsed_s < UPLOAD_TIMEOUT_S + LINGER_S + SLACK_S


def test_body_one_byte_a_second(platform: Platform) -> None:
    begun = time.monotonic()
    with wire(platform.address) as connection:
        connection.send(head(platform, f"POST {CHAT}", "content-length: 1000"))
        answer = connection.dribble(b" " * 60, period_s=1)
    expect(answer, 408, "upload_timeout")
    assert time.monotonic() - begun < UPLOAD_TIMEOUT_S + LINGER_S + SLACK_S


def test_body_never_sent(platform: Platform) -> None:
    begun = time.monotonic()
    answer = ask(platform, head(platform, f"POST {CHAT}", "content-length: 100"))
    expect(answer, 408, "upload_timeout")
    assert time.monotonic() - begun < UPLOAD_TIMEOUT_S + LINGER_S + SLACK_S


def test_head_one_byte_at_a_time(platform: Platform) -> None:
    request = head(platform, "GET /v1/models")
    answer, elapsed_s = timed(platform, request, period_s=0.5)
    assert answer is None or answer.status == 408
    assert elapsed_s < HEADER_TIMEOUT_S + SLACK_S


def test_silent_connection_is_closed(platform: Platform) -> None:
    answer, elapsed_s = timed(platform, b"G", period_s=0)
    assert answer is None or answer.status == 408
    assert elapsed_s < HEADER_TIMEOUT_S + SLACK_S


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /v1/models HTTP/9.9\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET http://engine:1/metrics HTTP/1.1\r\nhost: a\r\n\r\n",
        b"CONNECT engine:1 HTTP/1.1\r\nhost: engine:1\r\n\r\n",
        b"\r\n" * 50,
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: nonsense\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: \x00\r\n\r\n",
    ],
    ids=lambda garbage: repr(garbage[:40]),
)
def test_garbage_bytes(platform: Platform, garbage: bytes) -> None:
    begun = time.monotonic()
    answer = ask(platform, garbage)
    assert answer is None or 400 <= answer.status < 500 or answer.status == 501, answer
    assert answer is None or b"Traceback" not in answer.body
    assert time.monotonic() - begun < HEADER_TIMEOUT_S + SLACK_S


def test_length_and_chunked_together_are_not_smuggled(platform: Platform) -> None:
    """RFC 9112, section 6.1: the second request must not be taken for one of its own."""
    inner = head(platform, "GET /v1/models")
    lines = ("content-length: 6", "transfer-encoding: chunked")
    with wire(platform.address, timeout_s=10) as connection:
        connection.send(head(platform, f"POST {CHAT}", *lines) + b"0\r\n\r\n" + inner)
        first = connection.answer()
        second = connection.answer("GET") if first and first.status < 500 else None
    assert first is None or 400 <= first.status < 500
    assert second is None or second.status in (200, 400)


def test_pipelined_requests_are_answered_in_order(platform: Platform) -> None:
    content = json.dumps(chat()).encode()
    one = head(platform, f"POST {CHAT}", f"content-length: {len(content)}", *_JSON_LINE) + content
    with wire(platform.address) as connection:
        connection.send(one + head(platform, "GET /v1/models") + head(platform, "GET /nothing"))
        answers = [connection.answer(), connection.answer("GET"), connection.answer("GET")]
    assert [answer and answer.status for answer in answers] == [200, 200, 404]


_JSON_LINE = ("content-type: application/json",)


def test_expect_continue(platform: Platform) -> None:
    content = json.dumps(chat()).encode()
    lines = (f"content-length: {len(content)}", "expect: 100-continue", *_JSON_LINE)
    with wire(platform.address) as connection:
        connection.send(head(platform, f"POST {CHAT}", *lines))
        connection.send(content)
        answer = connection.answer()
    assert answer is not None
    assert answer.status == 200, answer.body


CONTROL_HEADERS = {
    "x-request-timeout-seconds": "0.001",
    "x-request-disconnect-disabled": "?1",
    "x-galerne-token": "guess",
    "x-galerne-refused": "full",
    "x-data-parallel-rank": "7",
    "serve_multiplexed_model_id": "other",
    "x-session-id": "a",
    "connection": "x-foo",
    "upgrade": "h2c",
    "te": "trailers",
    "accept-encoding": "gzip",
    "x-forwarded-for": "1.2.3.4",
    "x-http-method-override": "DELETE",
}


@pytest.mark.parametrize("name", CONTROL_HEADERS)
def test_control_headers_have_no_effect(client: httpx.Client, name: str) -> None:
    headers = {name: CONTROL_HEADERS[name]}
    answer = client.post(CHAT, json=chat(max_tokens=20, ignore_eos=True), headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 20
    assert not [key for key in answer.headers if key.startswith("x-galerne")]


@pytest.mark.parametrize("path", ["/v1/models", "/nothing", "/health", CHAT])
def test_valid_request_id_is_echoed_once(platform: Platform, path: str) -> None:
    answer = ask(platform, head(platform, f"GET {path}", "x-request-id: my-id.1"), method="GET")
    assert answer is not None
    assert values_of(answer.headers, "x-request-id") == ["my-id.1"]


@pytest.mark.parametrize("bad_id", ["a b", "<script>", "é", "a" * 129, ""])
def test_invalid_request_id_is_replaced(platform: Platform, bad_id: str) -> None:
    request = head(platform, "GET /v1/models", f"x-request-id: {bad_id}")
    answer = ask(platform, request, method="GET")
    assert answer is not None
    (echoed,) = values_of(answer.headers, "x-request-id")
    assert echoed.startswith("req-")


def test_request_ids_are_unique(client: httpx.Client) -> None:
    ids = {client.get("/v1/models").headers["x-request-id"] for _ in range(20)}
    assert len(ids) == 20


@pytest.mark.parametrize("headers", [{}, {"x-galerne-token": "guess"}, {"x-galerne-token": ""}])
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/metrics",
        "/health",
        "/ping",
        "/invocations",
        "/openapi.json",
        "/docs",
        "/v1/models",
        CHAT,
        "/galerne/state",
        "/tokenize",
    ],
)
def test_engine_listener_refuses_strangers(
    platform: Platform, path: str, headers: dict[str, str]
) -> None:
    url = platform.engine()["url"] + path
    with platform.client(headers=headers) as stranger:
        for method in ("GET", "POST", "OPTIONS"):
            answer = stranger.request(method, url)
            assert answer.status_code == 401, (method, answer.text)
            assert answer.json() == {"refused": "unauthenticated"}
