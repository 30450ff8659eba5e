"""Starting, refusing to start, and surviving killed processes. Runs last: it kills processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from e2e.harness import (
    EMBEDDER,
    ENDLESS,
    MODEL,
    NUM_GATEWAYS,
    Platform,
    chat,
    free_port,
    galerne,
    wait_until,
)

CHAT = "/v1/chat/completions"
ENGINE_RESTART_S = 150
GATEWAY_RESTART_S = 60
HANG_S = 90
"""Detection (`HANG_TIMEOUT_S` when busy, three questions when idle) on a loaded machine."""
REPLICA_KEYS = {
    "id", "state", "started_at", "pid", "node",
    "in_flight", "waiting", "kv_blocks_used", "kv_blocks_total",
}  # fmt: skip


def assert_refused(up: Any, *fragments: str) -> None:
    """One line that says what is wrong, a hint, exit code 2 and no traceback."""
    assert up.returncode == 2, (up.returncode, up.stdout, up.stderr)
    assert "Traceback" not in up.stderr
    lines = up.stderr.strip().splitlines()
    assert len([line for line in lines if line.startswith("error")]) == 1, up.stderr
    for fragment in fragments:
        assert fragment in up.stderr, up.stderr


def test_second_up_is_refused(platform: Platform) -> None:
    up = platform.run("up", "--preset", "cpu", "--port", str(free_port()))
    assert_refused(up, "already runs", platform.endpoint, "hint", "galerne down")
    assert platform.engine()["state"]


def test_busy_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = galerne("up", "--preset", "cpu", "--port", str(port), state_dir=tmp_path)
    assert_refused(up, f"port {port} is already in use", "hint", "--port")


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("gateway.replicas=0", "gateway.replicas"),
        ("gateway.replica=2", "gateway.replica"),
        ("nonsense=1", "nonsense"),
        ("endpoint.port=99999", "endpoint.port"),
        ("models.demo.engine.max_model_len=many", "models.demo.engine.max_model_len"),
        ("gateway.replicas", "gateway.replicas"),
    ],
)
def test_bad_setting_is_named(tmp_path: Path, setting: str, named: str) -> None:
    assert_refused(galerne("up", "--preset", "cpu", "--set", setting, state_dir=tmp_path), named)


def test_missing_model_folder_is_named(tmp_path: Path) -> None:
    source = f"models.demo.weights.source={tmp_path}/absent"
    arguments = ["up", "--preset", "cpu", "--port", str(free_port()), "--set", source]
    assert_refused(galerne(*arguments, state_dir=tmp_path), f"{tmp_path}/absent")


def test_commands_without_a_platform(tmp_path: Path) -> None:
    assert_refused(galerne("status", "--json", state_dir=tmp_path), "not running", "galerne up")
    assert galerne("down", state_dir=tmp_path).returncode == 0


def test_status_has_the_promised_keys(platform: Platform) -> None:
    asked = platform.run("status", "--json")
    assert asked.returncode == 0, asked.stderr
    status = json.loads(asked.stdout)
    assert status["endpoint"] == platform.endpoint
    assert [model["id"] for model in status["models"]] == [MODEL, EMBEDDER]
    model = status["models"][0]
    assert model["sliding_window"] == 512
    (replica,) = model["replicas"]
    assert set(replica) == REPLICA_KEYS
    assert replica["state"] == "RUNNING"
    assert replica["kv_blocks_total"] > replica["kv_blocks_used"] == replica["in_flight"] == 0
    assert psutil.pid_exists(replica["pid"])
    assert len(status["gateways"]) == NUM_GATEWAYS
    for gateway in status["gateways"]:
        assert gateway["state"] == "RUNNING"
        assert gateway["problems"] == []
        assert psutil.pid_exists(gateway["pid"])


def test_status_for_people(platform: Platform) -> None:
    shown = platform.run("status")
    assert shown.returncode == 0
    assert all(word in shown.stdout for word in (platform.endpoint, MODEL, "RUNNING", "512"))


def test_secrets_are_private(platform: Platform) -> None:
    for path in platform.state_dir.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


class Outcomes:
    """Clients that ask on new connections without pause, and how it went."""

    def __init__(self, platform: Platform) -> None:
        self.statuses: Counter[int] = Counter()
        self.broken: list[float] = []
        """When a connection broke."""
        self.slowest_s = 0.0
        self.unexplained: list[str] = []
        self._platform = platform
        self._stop = threading.Event()

    @contextmanager
    def clients(self, count: int) -> Iterator[None]:
        threads = [threading.Thread(target=self._run) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(timeout=60)

    def _run(self) -> None:
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                with self._platform.client() as client:
                    self._note(client.post(CHAT, json=chat(max_tokens=2)))
            except httpx.TransportError:
                self.broken.append(begun)
            self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
            self._stop.wait(0.1)

    def _note(self, answer: httpx.Response) -> None:
        self.statuses[answer.status_code] += 1
        if answer.status_code == 503 and "retry-after" in answer.headers:
            return
        if answer.status_code not in (200, 502):
            self.unexplained.append(f"{answer.status_code} {answer.text[:300]}")


def test_killed_gateway_is_replaced_and_others_serve(platform: Platform) -> None:
    before = {gateway["pid"] for gateway in platform.status()["gateways"]}
    outcomes = Outcomes(platform)
    with outcomes.clients(3):
        wait_until(lambda: outcomes.statuses[200] > 5, timeout_s=30)
        os.kill(min(before), signal.SIGKILL)
        killed_at = time.monotonic()
        wait_until(
            lambda: _num_new_gateways(platform, before) == 1,
            timeout_s=GATEWAY_RESTART_S,
            what="a new gateway",
            period_s=0.5,
        )
        print(f"gateway replaced after {time.monotonic() - killed_at:.1f} s")
        served = outcomes.statuses[200]
        wait_until(lambda: outcomes.statuses[200] > served + 5, timeout_s=30)
    print(f"{outcomes.statuses}, broken {len(outcomes.broken)}, slowest {outcomes.slowest_s:.1f} s")
    assert not outcomes.unexplained
    late = [begun for begun in outcomes.broken if begun > killed_at + 3]
    assert not late, f"connections broke {[at - killed_at for at in late]} s after the kill"
    assert len(outcomes.broken) + outcomes.statuses[502] + outcomes.statuses[503] <= 10


def _num_new_gateways(platform: Platform, before: set[int]) -> int:
    """Gateways that run now and did not before; -1 unless all are there."""
    gateways = platform.status()["gateways"]
    running = {gateway["pid"] for gateway in gateways if gateway["state"] == "RUNNING"}
    return len(running - before) if len(running) == NUM_GATEWAYS else -1


def test_killed_engine_is_replaced_and_leaves_nothing(platform: Platform) -> None:
    """Meanwhile requests get 503 `model_not_ready` in bounded time, and none hangs."""
    platform.note_processes()
    replica = psutil.Process(platform.engine()["pid"])
    children = replica.children(recursive=True)
    assert children, "vLLM runs its engine in a process of its own"
    outcomes = Outcomes(platform)
    with outcomes.clients(2):
        wait_until(lambda: outcomes.statuses[200] > 2, timeout_s=30)
        replica.kill()
        killed_at = time.monotonic()
        _, left = psutil.wait_procs(children, timeout=20)
        assert not left, f"orphans of the killed replica: {left}"
        wait_until(lambda: outcomes.statuses[503], timeout_s=30, what="503 while it is away")
        wait_until(
            lambda: _new_engine_pid(platform, replica.pid),
            timeout_s=ENGINE_RESTART_S,
            what="a new engine replica",
            period_s=1,
        )
        print(f"engine replaced after {time.monotonic() - killed_at:.1f} s")
        served = outcomes.statuses[200]
        wait_until(lambda: outcomes.statuses[200] > served + 2, timeout_s=30)
    print(f"{outcomes.statuses}, broken {len(outcomes.broken)}, slowest {outcomes.slowest_s:.1f} s")
    assert not outcomes.unexplained
    assert not outcomes.broken, "the gateways were never away"
    assert outcomes.slowest_s < 20


def test_hung_engines_are_replaced_and_leave_nothing(platform: Platform) -> None:
    """One that is busy and one that is idle. Their processes are stopped, not killed: alive, and
    silent."""
    hung = {
        model: wait_until(
            lambda model=model: _running_engine(platform, model),
            timeout_s=60,
            what=f"an EngineCore of {model}",
            period_s=0.5,
        )
        for model in (MODEL, EMBEDDER)
    }
    replicas = {model: replica for model, (replica, _) in hung.items()}
    children = [child for r in replicas.values() for child in r.children(recursive=True)]
    with platform.client() as client, ThreadPoolExecutor() as pool:
        body = chat(stream=True, **ENDLESS)
        answer = pool.submit(lambda: client.post(CHAT, json=body).text)
        wait_until(lambda: platform.engine()["state"]["load"]["running"], timeout_s=60)
        for _, core in hung.values():
            core.suspend()
        hung_at = time.monotonic()
        assert "engine_failed" in answer.result(timeout=HANG_S), "the client is told"
        print(f"stream ended after {time.monotonic() - hung_at:.1f} s")
        for model, replica in replicas.items():
            wait_until(
                lambda model=model, old=replica.pid: _new_engine_pid(platform, old, model),
                timeout_s=HANG_S + ENGINE_RESTART_S,
                what=f"a new engine replica of {model}",
                period_s=1,
            )
            print(f"{model} replaced after {time.monotonic() - hung_at:.1f} s")
        _, left = psutil.wait_procs([*replicas.values(), *children], timeout=20)
        assert not left, f"orphans of the hung replicas: {left}"
        wait_until(lambda: client.post(CHAT, json=chat()).status_code == 200, timeout_s=60)


def _running_engine(
    platform: Platform, model_id: str
) -> tuple[psutil.Process, psutil.Process] | None:
    """The replica and its engine's process; a gateway may know the one before a moment longer."""
    with suppress(psutil.NoSuchProcess):
        (found,) = platform.engines(model_id)
        replica = psutil.Process(found["pid"])
        if (core := _engine_core(replica)) is not None:
            return replica, core
    return None


def _engine_core(replica: psutil.Process) -> psutil.Process | None:
    """vLLM's engine process below a replica, by the title that it gives itself if it can, or else
    by what Python starts it with."""
    for child in replica.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            command = " ".join(child.cmdline())
            print(f"below the replica: {child.name()} {command}")
            if command.startswith("VLLM::EngineCore") or "spawn_main" in command:
                return child
    return None


def _new_engine_pid(platform: Platform, old: int, model_id: str = MODEL) -> bool:
    model = platform.model_status(model_id)
    return any(r["state"] == "RUNNING" and r["pid"] != old for r in model["replicas"])


def test_unready_model_says_so(platform: Platform) -> None:
    """The answer to a request while its model has no replica."""
    replica = psutil.Process(platform.engine()["pid"])
    replica.kill()
    with platform.client() as client:
        answer = wait_until(
            lambda: (a := client.post(CHAT, json=chat())).status_code == 503 and a, timeout_s=30
        )
    assert answer.json()["error"]["code"] == "model_not_ready"
    assert int(answer.headers["retry-after"]) >= 1
