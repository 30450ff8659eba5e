"""Clients that leave, or stop reading: their generation ends, and nobody else's."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from e2e.harness import (
    ENDLESS,
    NUM_GATEWAYS,
    STALLED_READ_TIMEOUT_S,
    UPLOAD_TIMEOUT_S,
    Platform,
    chat,
    wait_until,
)

ABORT_BOUND_S = 1.0
CLIENT_TIMEOUT_MARGIN_S = 10
"""By how much HAProxy's limit on a silent client exceeds the gateway's on an upload."""
BUFFERS_S = 60.0
"""Time in which an endless answer has filled every buffer between engine and client."""


@pytest.fixture(autouse=True)
def _idle(platform: Platform) -> Iterator[None]:
    """Each test begins and ends with an idle engine."""
    wait_until(platform.is_idle, timeout_s=60, what="idle before the test", period_s=0.2)
    yield
    wait_until(platform.is_idle, timeout_s=10, what="idle after the test")


def open_request(
    platform: Platform, path: str, body: dict[str, Any], **options: Any
) -> socket.socket:
    """A connection on which a request has been sent and nothing been read."""
    connection = socket.socket()
    if size := options.get("receive_buffer_bytes"):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    connection.settimeout(30)
    connection.connect(platform.address)
    content = json.dumps(body).encode()
    head = [
        f"POST {path} HTTP/1.1",
        "host: galerne",
        f"authorization: Bearer {platform.key}",
        "content-type: application/json",
        f"content-length: {len(content)}",
        *(f"{name}: {value}" for name, value in options.get("headers", {}).items()),
    ]
    parts = ["\r\n".join([*head, "", ""]).encode(), content]
    if pause_s := options.get("pause_s"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(parts.pop(0))
        time.sleep(pause_s)  # the network between head and body, not synchronisation
    connection.sendall(b"".join(parts))
    return connection


def is_served(client_address: tuple[str, int]) -> bool:
    """Whether a process holds the server's side of a client's connection."""
    connections = psutil.net_connections("tcp")
    return any(c.raddr == client_address and c.pid is not None for c in connections)


def wait_until_running(platform: Platform) -> None:
    wait_until(lambda: platform.engine()["state"]["load"]["running"], timeout_s=60, what="running")


def seconds_until_idle(platform: Platform) -> float:
    begun = time.monotonic()
    wait_until(platform.is_idle, timeout_s=10, what="idle after the client left", period_s=0.02)
    return time.monotonic() - begun


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", chat(stream=True, **ENDLESS)),
        ("/v1/chat/completions", chat(stream=True, n=3, temperature=1, **ENDLESS)),
        ("/v1/completions", {"model": "demo", "prompt": "The sea", "stream": True, **ENDLESS}),
        ("/v1/messages", chat(stream=True, **ENDLESS)),
        (
            "/v1/responses",
            {"model": "demo", "input": "Sea", "stream": True, "max_output_tokens": 3000},
        ),
    ],
    ids=["chat", "chat-n3", "completions", "messages", "responses"],
)
def test_disconnect_aborts_a_stream(platform: Platform, path: str, body: dict[str, Any]) -> None:
    with open_request(platform, path, body) as connection:
        received = b""
        while received.count(b"data:") < 3:
            part = connection.recv(65536)
            assert part, f"ended after {received!r}"
            received += part
    assert seconds_until_idle(platform) < ABORT_BOUND_S

    def is_free() -> bool:
        (replica,) = platform.model_status()["replicas"]
        return replica["in_flight"] == replica["kv_blocks_used"] == 0

    wait_until(is_free, timeout_s=2 * ABORT_BOUND_S, what="its blocks are free")


@pytest.mark.parametrize("pause_s", [None, 0.2], ids=["one-segment", "head-then-body"])
def test_disconnect_aborts_an_answer_that_is_not_streamed(
    platform: Platform, pause_s: float | None
) -> None:
    """Most HTTP clients send head and body apart; HAProxy's splicing then missed the disconnect."""
    body = chat(**ENDLESS)
    with open_request(platform, "/v1/chat/completions", body, pause_s=pause_s):
        wait_until_running(platform)
    assert seconds_until_idle(platform) < ABORT_BOUND_S


def test_half_closed_client_is_answered_or_dropped(platform: Platform) -> None:
    """A client that shuts its sending side down may have left: either is right, hanging is not."""
    with open_request(platform, "/v1/chat/completions", chat()) as connection:
        connection.shutdown(socket.SHUT_WR)
        received = connection.recv(65536)
    assert received == b"" or received.startswith((b"HTTP/1.1 200", b"HTTP/1.1 400"))


def test_client_that_stops_reading_is_cut(platform: Platform) -> None:
    """16 choices with 20 alternatives for each token overflow the buffers within seconds."""
    alternatives = {"n": 16, "temperature": 1, "logprobs": True, "top_logprobs": 20}
    body = chat(stream=True, **alternatives, **ENDLESS)
    request_id = "test-stops-reading"
    options = {"receive_buffer_bytes": 4096, "headers": {"x-request-id": request_id}}
    with open_request(platform, "/v1/chat/completions", body, **options) as connection:
        wait_until_running(platform)
        begun = time.monotonic()
        wait_until(platform.is_idle, timeout_s=BUFFERS_S + STALLED_READ_TIMEOUT_S, period_s=0.2)
        print(f"cut after {time.monotonic() - begun:.1f} s")
        row = wait_until(lambda: platform.logged(request_id), timeout_s=5)
        # The client still reads nothing, so only HAProxy's own limit can end the connection.
        limit_s = UPLOAD_TIMEOUT_S + CLIENT_TIMEOUT_MARGIN_S
        address = connection.getsockname()
        wait_until(lambda: not is_served(address), timeout_s=2 * limit_s, period_s=0.2)
    assert row["code"] == "client_gone"


def test_equal_request_ids_do_not_touch_each_other(platform: Platform) -> None:
    """Two clients happen to send the same id; one leaves, the other gets its whole answer."""
    headers = {"x-request-id": "same-id"}
    leaving = open_request(
        platform, "/v1/chat/completions", chat(stream=True, **ENDLESS), headers=headers
    )
    wait_until_running(platform)
    with platform.client(headers=headers) as staying, ThreadPoolExecutor() as pool:
        body = chat(max_tokens=100, ignore_eos=True)
        answer = pool.submit(staying.post, "/v1/chat/completions", json=body)
        wait_until(lambda: platform.engine()["state"]["in_flight"] == 2, timeout_s=10)
        leaving.close()
        result = answer.result(timeout=60)
    assert result.status_code == 200, result.text
    assert result.json()["usage"]["completion_tokens"] == 100


def test_many_clients_leave_at_once(platform: Platform) -> None:
    body = chat(stream=True, **ENDLESS)
    connections = [open_request(platform, "/v1/chat/completions", body) for _ in range(20)]
    for connection in connections:
        assert connection.recv(12) == b"HTTP/1.1 200"
    for connection in connections:
        connection.close()
    assert seconds_until_idle(platform) < 2 * ABORT_BOUND_S


def test_every_gateway_serves(platform: Platform) -> None:
    """HAProxy spreads connections, and each gateway knows the engine."""
    ids = [f"test-spread-{number}" for number in range(8)]
    barrier = threading.Barrier(len(ids))

    def ask(request_id: str) -> int:
        with platform.client(headers={"x-request-id": request_id}) as client:
            barrier.wait(timeout=10)
            return client.post("/v1/chat/completions", json=chat()).status_code

    with ThreadPoolExecutor(len(ids)) as pool:
        assert list(pool.map(ask, ids)) == [200] * len(ids)
    rows = [wait_until(lambda i=i: platform.logged(i), timeout_s=5) for i in ids]
    assert len({row["gateway"] for row in rows}) == NUM_GATEWAYS


def test_slow_reader_gets_the_whole_stream(client: httpx.Client) -> None:
    """Reading slowly, but within the bound, loses nothing."""
    body = chat(stream=True, max_tokens=60, ignore_eos=True, stream_options={"include_usage": True})
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        events = [line for line in answer.iter_lines() if line.startswith("data: ")]
    assert events[-1] == "data: [DONE]"
    assert json.loads(events[-2][6:])["usage"]["completion_tokens"] == 60
