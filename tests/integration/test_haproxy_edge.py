"""The hardened HAProxy over real sockets, with no gateway behind it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from haproxy_template import render

from loadtest.processes import free_ports

HEADER_TIMEOUT_S = 1
DEADLINE_S = 15.0
BUFFER_BYTES = 128 * 1024
"""As the platform sets it."""


@dataclass(frozen=True)
class Edge:
    port: int
    stats_port: int
    metrics_port: int


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/json"
        assert self.headers["cache-control"] == "no-store"
        assert int(self.headers["content-length"]) == len(self.body)
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def _listens(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=1).close()
    except OSError:
        return False
    return True


class _ServesOwnProxy(BaseHTTPRequestHandler):
    """Healthy, and of no use."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"Internal Server Error")

    def log_message(self, *_arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def fallback_port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _ServesOwnProxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory, fallback_port: int) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("edge")
    (dead_port,) = free_ports(1)
    gateways = {"gateway_port": dead_port, "fallback_port": fallback_port}
    with running_edge(folder, application_path="/v1", retries=0, **gateways) as started:
        yield started


@contextlib.contextmanager
def running_edge(folder: Path, **options: Any) -> Iterator[Edge]:
    """The hardened HAProxy, listening."""
    port, stats_port, metrics_port = free_ports(3)
    config = render(
        folder,
        endpoint_port=port,
        stats_port=stats_port,
        metrics_port=metrics_port,
        bufsize=BUFFER_BYTES,
        **options,
    )
    script = Path(sys.executable).with_name("galerne-haproxy")
    environ = {**os.environ, "GALERNE_HEADER_TIMEOUT_S": str(HEADER_TIMEOUT_S)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [script, "-db", "-f", config, "-dR"], env=environ, stdout=log, stderr=log
        )
    try:
        _until(lambda: process.poll() is not None or _listens(("127.0.0.1", port)))
        assert process.poll() is None, (folder / "log").read_text()
        # Ray tells its own workers by the configuration's path in their command line.
        assert str(config).encode() in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        yield Edge(port, stats_port, metrics_port)
    finally:
        process.kill()
        process.wait(timeout=DEADLINE_S)


class _NamesItself(BaseHTTPRequestHandler):
    """Healthy, and answers with the address it was asked at."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(self.connection.getsockname()[0]).encode())

    def log_message(self, *_arguments: Any) -> None:
        pass


@contextlib.contextmanager
def _gateway(host: str, port: int = 0) -> Iterator[int]:
    with ThreadingHTTPServer((host, port), _NamesItself) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_another_nodes_gateway_stands_in_at_once_and_until_the_own_is_back(tmp_path: Path) -> None:
    """No request is refused in between, though no check has found the own one dead yet."""
    own, other = "127.0.0.1", "127.0.0.2"
    with _gateway(other) as other_port, contextlib.ExitStack() as while_alive:
        own_port = while_alive.enter_context(_gateway(own))
        others = [(other, other_port)]
        options = {"observe_mark_down_enabled": False, "gateway_port": own_port}
        with running_edge(tmp_path, other_gateways=others, **options) as edge:

            def answerer() -> str:
                answer = _get(edge.port, "/")
                assert answer.status == 200, answer
                return answer.body.decode()

            _until(lambda: _get(edge.port, "/").status == 200)
            assert {answerer() for _ in range(20)} == {own}
            while_alive.close()
            assert {answerer() for _ in range(20)} == {other}
            with _gateway(own, own_port):
                _until(lambda: answerer() == own)


def _exchange(port: int, request: bytes) -> Answer:
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
        connection.sendall(request)
        raw = b""
        while chunk := connection.recv(65536):
            raw += chunk
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    return Answer(int(lines[0].split()[1]), headers, body)


def _get(port: int, path: str) -> Answer:
    return _exchange(port, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nbad header line\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Big: " + b"a" * BUFFER_BYTES + b"\r\n\r\n",
    ],
    ids=["header", "tls", "smuggling", "huge-head"],
)
def test_malformed_request_is_a_400_that_names_nothing(edge: Edge, request_bytes: bytes) -> None:
    answer = _exchange(edge.port, request_bytes)
    assert answer.status == 400
    assert answer.headers["connection"] == "close"
    assert not re.search(rb"haproxy|galerne|127\.0\.0\.1", answer.body, re.IGNORECASE)


@pytest.mark.parametrize(
    "headers",
    [b"X-Big: " + b"a" * 70_000 + b"\r\n", b"".join(b"X-%d: a\r\n" % n for n in range(1000))],
    ids=["long", "many"],
)
def test_a_large_head_is_left_to_the_gateway(edge: Edge, headers: bytes) -> None:
    request = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + headers + b"\r\n"
    assert _exchange(edge.port, request).error["code"] == "gateway_unavailable"


def test_slow_head_is_cut_within_the_bound(edge: Edge) -> None:
    started = time.monotonic()
    answer = _exchange(edge.port, b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Sl")
    assert HEADER_TIMEOUT_S - 0.1 < time.monotonic() - started < HEADER_TIMEOUT_S + 3
    assert answer.status == 408


def test_no_gateway_is_a_retryable_json_503(edge: Edge) -> None:
    # Only once the gateway counts as down would anything stand in for it.
    _until(lambda: _get(edge.port, "/-/healthz").status == 503)
    answer = _get(edge.port, "/v1/models")
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["connection"] == "close"
    assert answer.error["code"] == "gateway_unavailable"


@pytest.mark.parametrize("path", ["/-/routes", "/nothing", "/stats", "/metrics"])
def test_unknown_paths_and_the_route_list_are_json_404(edge: Edge, path: str) -> None:
    answer = _get(edge.port, path)
    assert answer.status == 404
    assert (answer.error["type"], answer.error["code"]) == ("not_found_error", "unknown_path")
    assert b"galerne" not in answer.body


def test_health_check_still_answers(edge: Edge) -> None:
    answer = _get(edge.port, "/-/healthz")
    assert answer.status in {200, 503}  # 503 once HAProxy has noticed the missing gateway
    assert answer.headers["content-type"] == "text/plain"


def test_head_answer_has_no_body(edge: Edge) -> None:
    answer = _exchange(edge.port, b"HEAD /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (answer.status, answer.body) == (404, b"")


def test_statistics_and_metrics_listen_on_loopback_only(edge: Edge) -> None:
    # All of 127/8 is this machine, so another address of it tells 127.0.0.1 from a wildcard.
    for port in (edge.stats_port, edge.metrics_port):
        assert _listens(("127.0.0.1", port))
        assert not _listens(("127.0.0.2", port))


def test_haproxy_does_not_outlive_what_started_it(tmp_path: Path) -> None:
    port, stats_port, metrics_port = free_ports(3)
    config = render(tmp_path, endpoint_port=port, stats_port=stats_port, metrics_port=metrics_port)
    script = Path(sys.executable).with_name("galerne-haproxy")
    start = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    with subprocess.Popen([sys.executable, "-c", start, script, "-db", "-f", config]) as starter:
        _until(lambda: starter.poll() is not None or _listens(("127.0.0.1", port)))
        starter.kill()
    _until(lambda: not _listens(("127.0.0.1", port)))


def test_a_gateway_sees_no_upgrade(tmp_path: Path) -> None:
    seen: list[bytes] = []
    port, stats_port, metrics_port = free_ports(3)
    with socket.create_server(("127.0.0.1", 0)) as gateway:
        config = render(
            tmp_path,
            endpoint_port=port,
            gateway_port=gateway.getsockname()[1],
            stats_port=stats_port,
            metrics_port=metrics_port,
        )

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    caller, _ = gateway.accept()
                    with caller:
                        seen.append(caller.recv(65536))
                        caller.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        threading.Thread(target=answer, daemon=True).start()
        script = Path(sys.executable).with_name("galerne-haproxy")
        with subprocess.Popen([script, "-db", "-f", config, "-dR"]) as process:
            _until(lambda: process.poll() is not None or _listens(("127.0.0.1", port)))
            upgrade = (
                b"GET /v1/realtime HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\n"
                b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            answered = _exchange(port, upgrade)
            process.kill()
        gateway.shutdown(socket.SHUT_RDWR)
    assert (answered.status, answered.body) == (200, b"ok")
    (asked,) = [request for request in seen if b"/v1/realtime" in request]
    assert b"\r\nupgrade:" not in asked.lower()
