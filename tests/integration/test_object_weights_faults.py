"""Weights from object storage when the network, a process or another process gets in the way.

The server answers HEAD and GET with ranges, all that a download asks for, and misbehaves on demand.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal, cast

import pytest

from serving.adapters.object_store import ModelStore, Patience
from serving.adapters.object_weights import fetch_model
from serving.errors import ConfigError
from serving.settings.weights import WeightSettings

WEIGHTS = "model.safetensors"
FILES = {
    "config.json": b"{}",
    "first.safetensors": b"first" * 1000,
    WEIGHTS: bytes(range(256)) * 1000,
}
MANIFEST = "".join(
    f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in FILES.items()
).encode()
SETTINGS = WeightSettings(
    source="s3://models/mistral", manifest_sha256=hashlib.sha256(MANIFEST).hexdigest()
)
HASTE = Patience(connect_s=0.5, stall_s=0.3, request_s=20, retries=1, retry_s=5)
PROMPTLY_S = 5.0

REPLICA = """
import sys
from pathlib import Path
from serving.adapters.object_weights import fetch_model
from serving.settings.weights import WeightSettings
settings = WeightSettings.model_validate_json(sys.argv[1])
print(fetch_model(settings, Path(sys.argv[2]), lambda step, *_: print(step, flush=True)))
"""

Fault = Literal["none", "cut", "cut once", "stall", "hang", "unavailable"]
"""What happens to `WEIGHTS`: the connection closes halfway, always or the first time; no byte comes
after half of them, or none at all; 503."""


@dataclass
class Bucket:
    """What the server holds and has been asked for."""

    fault: Fault = "none"
    gets: Counter[str] = field(default_factory=Counter)
    released: threading.Event = field(default_factory=threading.Event)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, bucket: Bucket) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bucket = bucket


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """The tests look at `Bucket.gets` instead."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        bucket = cast(Server, self.server).bucket
        name = self.path.removeprefix("/models/mistral/")
        content = {**FILES, "SHA256SUMS": MANIFEST}[name]
        if self.command == "HEAD":
            self._head(200, len(content))
            return
        bucket.gets[name] += 1
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        assert wanted is not None
        start, end = int(wanted[1]), int(wanted[2]) + 1
        fault = bucket.fault if name == WEIGHTS else "none"
        if fault == "hang":
            bucket.released.wait()
        if fault == "unavailable":
            self._head(503, 0)
            return
        self._head(206, end - start, f"bytes {start}-{end - 1}/{len(content)}")
        body = content[start:end]
        is_cut = fault == "cut" or (fault == "cut once" and bucket.gets[name] == 1)
        if is_cut or fault == "stall":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            if fault == "stall":
                bucket.released.wait()
            return
        self.wfile.write(body)

    def _head(self, status: int, num_bytes: int, content_range: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(num_bytes))
        self.send_header("Last-Modified", "Mon, 02 Nov 2026 00:00:00 GMT")
        self.send_header("ETag", '"1"')
        if content_range is not None:
            self.send_header("Content-Range", content_range)
        self.end_headers()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    bucket = Bucket()
    server = Server(bucket)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    yield bucket
    bucket.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(model_dir: Path) -> Path:
    return fetch_model(
        SETTINGS,
        model_dir,
        open_store=lambda source: ModelStore.open(source, os.environ, HASTE),
    )


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


WHOLE = {**FILES, "SHA256SUMS": MANIFEST}


@pytest.mark.parametrize("fault", ["cut", "stall", "hang", "unavailable"])
def test_a_download_that_breaks_off_ends_soon_and_is_resumed(
    bucket: Bucket, tmp_path: Path, fault: Fault
) -> None:
    bucket.fault = fault
    begun = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        fetch(tmp_path)
    assert time.monotonic() - begun < PROMPTLY_S
    assert caught.value.code == "weights_unreachable"
    assert WEIGHTS in caught.value.message
    assert not list(tmp_path.glob("model-*"))
    assert not list(tmp_path.glob(".*.half-*"))
    bucket.fault = "none"
    bucket.gets.clear()
    assert contents(fetch(tmp_path)) == WHOLE
    assert set(bucket.gets) == {"SHA256SUMS", WEIGHTS}


def test_a_connection_that_is_cut_once_goes_unnoticed(bucket: Bucket, tmp_path: Path) -> None:
    bucket.fault = "cut once"
    assert contents(fetch(tmp_path)) == WHOLE


def start_replica(model_dir: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", REPLICA, SETTINGS.model_dump_json(), str(model_dir)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def until(condition: Callable[[], object], limit_s: float = 30.0) -> None:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < limit_s
        time.sleep(0.02)


def test_a_killed_download_is_resumed(bucket: Bucket, tmp_path: Path) -> None:
    bucket.fault = "hang"
    with start_replica(tmp_path) as replica:
        until(lambda: list(tmp_path.glob(".*.partial/first.safetensors")))
        until(lambda: list(tmp_path.glob(".*.half-*")))
        replica.kill()
    assert not list(tmp_path.glob("model-*"))
    bucket.fault = "none"
    bucket.gets.clear()
    assert contents(fetch(tmp_path)) == WHOLE
    assert set(bucket.gets) == {"SHA256SUMS", WEIGHTS}
    assert not list(tmp_path.glob(".*.half-*"))


def test_processes_of_one_machine_download_once(bucket: Bucket, tmp_path: Path) -> None:
    bucket.fault = "hang"
    with start_replica(tmp_path) as first:
        until(lambda: bucket.gets[WEIGHTS])
        with start_replica(tmp_path) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "waiting for another download\n"
            bucket.fault = "none"
            bucket.released.set()
            told = [process.communicate(timeout=60)[0] for process in (first, second)]
    folders = {text.splitlines()[-1] for text in told}
    [folder] = folders
    assert contents(Path(folder)) == WHOLE
    assert bucket.gets == dict.fromkeys(WHOLE, 1)
