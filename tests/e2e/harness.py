"""One running platform, and the questions tests ask it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from e2e.lora import ADAPTER, write_adapter
from loadtest.processes import free_port
from serving.adapters import control_client
from serving.adapters.state_paths import StatePaths

T = TypeVar("T")

MODEL = "demo"
EMBEDDER = "demo-embeddings"
"""The demo model as a pooling model."""
NUM_GATEWAYS = 2
UPLOAD_TIMEOUT_S = 2
HEADER_TIMEOUT_S = 3
STALLED_READ_TIMEOUT_S = 3
MAX_BODY_BYTES = 256 * 1024
HANG_TIMEOUT_S = 10
LINGER_S = 2
"""How long the gateway swallows the rest of a refused upload."""

SMALL_LIMITS = (
    f"gateway.replicas={NUM_GATEWAYS}",
    f"gateway.limits.upload_timeout_s={UPLOAD_TIMEOUT_S}",
    f"gateway.limits.header_timeout_s={HEADER_TIMEOUT_S}",
    f"gateway.limits.stalled_read_timeout_s={STALLED_READ_TIMEOUT_S}",
    f"gateway.limits.max_body_bytes={MAX_BODY_BYTES}",
    "gateway.no_replica_wait_s=2",
    f"models.{MODEL}.engine.hang_timeout_s={HANG_TIMEOUT_S}",
)
EMBEDDER_SETTINGS = tuple(
    f"models.{EMBEDDER}.{setting}"
    for setting in (
        "weights.source=demo",
        "resources.device=cpu",
        "resources.num_cpus=0",
        "engine.max_model_len=512",
        "engine.kv_cache_gib=0.1",
        "engine.enforce_eager=true",
        "engine.extra_args={runner: pooling, convert: embed}",
    )
)
DOWN_S = 15.0
"""Bound on stopping a platform, and on the end of what it cuts, on a loaded machine."""
GALERNE = Path(sys.executable).with_name("galerne")
_START_TIMEOUT_S = 240
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Spares each client the loading of certificates, which costs more than a request."""
_KEY = re.compile(r"gal_\w{12}_[\w-]{43}")


def galerne(
    *arguments: str, state_dir: Path, timeout_s: float = 60, max_files: int | None = None
) -> subprocess.CompletedProcess:
    """Run one command to its end; the caller looks at its exit code.

    `max_files` is the hard limit of file descriptors of each process it starts.
    """
    limit = ["prlimit", f"--nofile={max_files}:{max_files}"] if max_files else []
    return subprocess.run(
        [*limit, GALERNE, *arguments],
        env={**os.environ, "GALERNE_STATE_DIR": str(state_dir)},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def wait_until(
    ask: Callable[[], T], *, timeout_s: float, what: str = "", period_s: float = 0.05
) -> T:
    """The first true answer; an AssertionError with the last one after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (answer := ask()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what or ask}; last answer {answer!r}")
        time.sleep(period_s)
    return answer


@dataclass
class Platform:
    """A running platform.

    `endpoint` is without `/v1`. `key` is the API key that the first start printed. `processes` are
    all processes seen so far that belong to it.
    """

    endpoint: str
    key: str
    state_dir: Path
    processes: set[psutil.Process] = field(default_factory=set)

    @classmethod
    def start_real(cls, state_dir: Path) -> Platform:
        """Two gateways with limits small enough to run into, two models on vLLM and an adapter."""
        adapter = write_adapter(state_dir.with_name("adapter"))
        settings = (
            *SMALL_LIMITS,
            *EMBEDDER_SETTINGS,
            f"models.{MODEL}.adapters.{ADAPTER}={adapter}",
        )
        return cls.start(state_dir, "cpu", settings)

    @classmethod
    def start(
        cls,
        state_dir: Path,
        preset: str,
        settings: Sequence[str],
        *,
        max_files: int | None = None,
    ) -> Platform:
        """Start a platform from a preset and `PATH=VALUE` settings."""
        words = [word for setting in settings for word in ("--set", setting)]
        arguments = ["up", "--preset", preset, "--port", str(free_port()), *words, "--detach"]
        begun = time.monotonic()
        up = galerne(
            *arguments, state_dir=state_dir, timeout_s=_START_TIMEOUT_S, max_files=max_files
        )
        assert up.returncode == 0, f"galerne up: {up.stdout}\n{up.stderr}\n{log_tail(state_dir)}"
        print(f"galerne up: {time.monotonic() - begun:.1f} s")
        endpoint = json.loads((state_dir / "run.json").read_text())["endpoint"]
        key = _KEY.search(up.stdout)
        assert key, f"the first start prints no key: {up.stdout}"
        return cls(endpoint, key[0], state_dir)

    def run(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess:
        """Run `galerne ...` against this platform."""
        return galerne(*arguments, state_dir=self.state_dir, timeout_s=timeout_s)

    def create_key(self, name: str, *options: str) -> str:
        created = self.run("keys", "create", "--name", name, "--json", *options)
        assert created.returncode == 0, created.stderr
        return str(json.loads(created.stdout)["key"])

    def status(self) -> dict[str, Any]:
        """What `galerne status --json` prints, without the start of a command."""
        return control_client.ask(StatePaths.of(self.state_dir, self.state_dir), "/status")

    def model_status(self, model_id: str = MODEL) -> dict[str, Any]:
        """One model's part of the status."""
        return next(dict(m) for m in self.status()["models"] if m["id"] == model_id)

    @cached_property
    def internal_token(self) -> str:
        return (self.state_dir / "internal-token").read_text().strip()

    @property
    def address(self) -> tuple[str, int]:
        url = httpx.URL(self.endpoint)
        return url.host, url.port or 80

    @property
    def authorization(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def client(self, **options: Any) -> httpx.Client:
        """An HTTP client with the API key."""
        headers = {**self.authorization, **options.pop("headers", {})}
        return self.anonymous(headers=headers, **options)

    def anonymous(self, **options: Any) -> httpx.Client:
        """An HTTP client without a key."""
        return httpx.Client(base_url=self.endpoint, timeout=60, verify=_NO_TLS, **options)

    def engines(self, model_id: str) -> list[dict[str, Any]]:
        """Url, pid and state of each replica of a model, as a gateway sees it."""
        with self.anonymous(headers={"x-galerne-token": self.internal_token}) as client:
            answer = client.get("/galerne/fleet")
        assert answer.status_code == 200, answer.text
        replicas: list[dict[str, Any]] = answer.json()["models"][model_id]
        return replicas

    def engine(self) -> dict[str, Any]:
        """The demo model's one replica."""
        (replica,) = self.engines(MODEL)
        return replica

    def is_idle(self) -> bool:
        """Whether the listener counts no request and vLLM runs none."""
        state = self.engine()["state"]
        return state["in_flight"] == state["load"]["running"] == state["load"]["waiting"] == 0

    def access_log(self) -> Iterator[dict[str, Any]]:
        """The requests that the gateways have logged; `gateway` is the process id of each."""
        for path in (self.state_dir / "logs").glob("gateway-*.jsonl"):
            for line in path.read_text().splitlines():
                yield {**json.loads(line), "gateway": path.stem.partition("-")[2]}

    def logged(self, request_id: str) -> dict[str, Any] | None:
        return next((row for row in self.access_log() if row.get("request_id") == request_id), None)

    def note_processes(self) -> None:
        """Add the supervisor's descendants, and whoever has left them but shares a session."""
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            supervisor = json.loads((self.state_dir / "run.json").read_text())["pid"]
            family = psutil.Process(supervisor)
            self.processes |= {family, *family.children(recursive=True)}
        sessions = {_session(process) for process in self.processes} - {None, os.getsid(0)}
        self.processes |= {p for p in psutil.process_iter() if _session(p) in sessions}

    def stop(self) -> None:
        """Stop it, and check that this is quick, since nothing runs any more, and that nothing it
        started is left."""
        self.note_processes()
        begun = time.monotonic()
        down = self.run("down", timeout_s=150)
        took_s = time.monotonic() - begun
        print(f"galerne down: {took_s:.1f} s")
        self.note_processes()
        left = [p for p in self.processes if _is_alive(p)]
        described = [_describe(p) for p in left]
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._remove_run_dir()
        assert down.returncode == 0, down.stderr
        assert not described, f"left behind by `galerne down`: {described}"
        assert took_s < DOWN_S

    def _remove_run_dir(self) -> None:
        """Remove Ray's sockets and logs, which `galerne down` keeps for reading."""
        logs = self.state_dir / "logs" / "ray"
        if logs.is_symlink():
            shutil.rmtree(logs.readlink().parents[2], ignore_errors=True)


def _session(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except OSError:
        return None


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _describe(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return f"{process.pid} {' '.join(process.cmdline())[:120]}"
    return str(process.pid)


def log_tail(state_dir: Path, *, num_lines: int = 25) -> str:
    """The last lines of the supervisor's log and of Serve's newest logs."""
    serve_logs = (state_dir / "logs" / "ray" / "serve").glob("*.log")
    newest = sorted(serve_logs, key=lambda path: path.stat().st_mtime)[-4:]
    paths = [path for path in (state_dir / "logs" / "up.log", *newest) if path.exists()]
    return "\n".join(f"--- {path}\n{_last_lines(path, num_lines)}" for path in paths)


def _last_lines(path: Path, count: int) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-count:])


def chat(content: str = "Tell me about the sea.", **options: Any) -> dict[str, Any]:
    """The body of a chat request."""
    message = {"role": "user", "content": content}
    return {"model": MODEL, "messages": [message], "temperature": 0, "max_tokens": 8, **options}


ENDLESS = {"max_tokens": 3500, "ignore_eos": True}
"""More tokens than any test waits for."""

_LEAK = re.compile(
    r"Traceback|/work|/tmp|/root|/home|site-packages|127\.0\.0\.1|\.py\b|0x[0-9a-f]{8}"
)


def assert_no_leak(text: str) -> None:
    """No traceback, file path or address of the platform."""
    found = _LEAK.search(text)
    assert not found, f"{found[0] if found else ''!r} in {text[:2000]}"


def assert_error(
    status: int, headers: Mapping[str, str], body: bytes, *, expect: tuple[int, str | None]
) -> dict[str, Any]:
    """The `error` object of an answer in OpenAI's shape with the expected status and code."""
    text = body.decode()
    wanted_status, wanted_code = expect
    assert status == wanted_status, f"{status}: {text[:1000]}"
    assert headers.get("content-type") == "application/json", headers
    assert headers.get("x-request-id"), f"no x-request-id: {dict(headers)}"
    assert_no_leak(text)
    error: dict[str, Any] = json.loads(text)["error"]
    assert isinstance(error["message"], str), error
    assert error["message"], error
    assert isinstance(error["type"], str), error
    assert isinstance(error["code"], str), error
    assert error["param"] is None or isinstance(error["param"], str), error
    assert wanted_code is None or error["code"] == wanted_code, error
    return error


def error_of(answer: httpx.Response, status: int, code: str | None) -> dict[str, Any]:
    return assert_error(answer.status_code, answer.headers, answer.content, expect=(status, code))


def is_refusal(answer: httpx.Response) -> bool:
    """Whether an answer only asks its client to come back later."""
    return answer.status_code in (429, 503) and int(answer.headers.get("retry-after", 0)) >= 1


def values_of(headers: Sequence[tuple[str, str]], name: str) -> list[str]:
    return [value for key, value in headers if key.lower() == name]
