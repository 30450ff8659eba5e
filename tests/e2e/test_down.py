"""Stopping: running requests finish, new ones are told when to come back, nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from e2e.harness import DOWN_S, GALERNE, Platform, free_port, galerne, is_refusal, wait_until

MODEL = "sim"
CHAT = "/v1/chat/completions"
STEP_S = 0.05
SETTINGS = (
    "gateway.replicas=2",
    f"models.{MODEL}.simulator.start_s=0",
    f"models.{MODEL}.simulator.timing.step_s={STEP_S}",
)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Platform]:
    running = Platform.start(tmp_path / "state", "sim", SETTINGS)
    try:
        yield running
    finally:
        running.stop()


@contextmanager
def foreground(state_dir: Path) -> Iterator[tuple[Platform, subprocess.Popen[str]]]:
    """`galerne up` at a terminal of its own: Ctrl-C reaches its whole process group."""
    port = free_port()
    key = json.loads(galerne("keys", "create", "--name", "t", "--json", state_dir=state_dir).stdout)
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    process = subprocess.Popen(
        [GALERNE, "up", "--preset", "sim", "--port", str(port), *words],
        env={**os.environ, "GALERNE_STATE_DIR": str(state_dir)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    platform = Platform(f"http://127.0.0.1:{port}", key["key"], state_dir)
    record = state_dir / "run.json"
    try:
        wait_until(
            lambda: record.exists() and json.loads(record.read_text())["ready"], timeout_s=120
        )
        platform.note_processes()
        yield platform, process
    finally:
        platform.stop()
        process.wait(timeout=30)


def read_stream(platform: Platform, num_tokens: int, begun: threading.Event) -> str:
    """The text of one stream, whole or cut."""
    message = {"role": "user", "content": "Tell me about the sea."}
    length = {"max_tokens": num_tokens, "ignore_eos": True}
    body: dict[str, Any] = {"model": MODEL, "messages": [message], "stream": True, **length}
    text = ""
    with platform.client() as client, client.stream("POST", CHAT, json=body) as answer:
        assert answer.status_code == 200
        try:
            for piece in answer.iter_text():
                text += piece
                begun.set()
        except httpx.TransportError:
            return text
    return text


@contextmanager
def streaming(platform: Platform, seconds: float) -> Iterator[Future[str]]:
    """A stream that has begun and takes that long."""
    begun = threading.Event()
    with ThreadPoolExecutor() as pool:
        stream = pool.submit(read_stream, platform, int(seconds / STEP_S), begun)
        assert begun.wait(timeout=30)
        yield stream


def is_whole(text: str) -> bool:
    return text.rstrip().endswith("data: [DONE]")


def test_down_finishes_what_runs_and_refuses_what_comes(fleet: Platform) -> None:
    with streaming(fleet, 6) as stream, ThreadPoolExecutor() as pool:
        stopped = pool.submit(fleet.run, "down", timeout_s=100)
        with fleet.client() as client:
            message = {"role": "user", "content": "More?"}
            body = {"model": MODEL, "messages": [message], "max_tokens": 1}
            refused = wait_until(
                lambda: (a := client.post(CHAT, json=body)).status_code != 200 and a, timeout_s=5
            )
        assert is_refusal(refused), refused.text
        assert refused.json()["error"]["code"] == "platform_stopping"
        assert not stream.done()
        assert is_whole(stream.result(timeout=30))
    assert stopped.result().returncode == 0
    assert "finishing 1 request" in stopped.result().stderr


def test_down_at_once_cuts_what_runs(fleet: Platform) -> None:
    with streaming(fleet, 60) as stream:
        begun = time.monotonic()
        stopped = fleet.run("down", "--drain-timeout", "0")
        took_s = time.monotonic() - begun
        assert not is_whole(stream.result(timeout=5))
    print(f"stopped after {took_s:.1f} s")
    assert stopped.returncode == 0
    assert took_s < DOWN_S


def test_down_waits_no_longer_than_it_is_told(fleet: Platform) -> None:
    with streaming(fleet, 60) as stream:
        begun = time.monotonic()
        assert fleet.run("down", "--drain-timeout", "3").returncode == 0
        took_s = time.monotonic() - begun
        assert not is_whole(stream.result(timeout=5))
    assert 3 < took_s < 3 + DOWN_S


def test_ctrl_c_finishes_what_runs_and_says_how_to_stop_at_once(tmp_path: Path) -> None:
    with foreground(tmp_path / "state") as (platform, process), streaming(platform, 3) as stream:
        os.killpg(process.pid, signal.SIGINT)
        assert is_whole(stream.result(timeout=30))
        _, said = process.communicate(timeout=30)
        assert process.returncode == 0
    assert "finishing 1 request; Ctrl-C stops at once" in said
    assert "Traceback" not in said


def test_the_second_signal_stops_at_once(tmp_path: Path) -> None:
    """A terminal's Ctrl-C and a service manager's SIGTERM count alike."""
    with foreground(tmp_path / "state") as (platform, process), streaming(platform, 60) as stream:
        process.send_signal(signal.SIGTERM)
        time.sleep(2)
        assert not stream.done()
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert time.monotonic() - begun < DOWN_S
        assert not is_whole(stream.result(timeout=5))
    assert "SIGTERM received" not in said, "Ray's handler is not in front"


def kill_supervisor(platform: Platform) -> None:
    platform.note_processes()
    supervisor = json.loads((platform.state_dir / "run.json").read_text())["pid"]
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(supervisor), timeout_s=10)


def test_up_and_down_end_what_a_killed_supervisor_has_left(fleet: Platform) -> None:
    kill_supervisor(fleet)
    of_killed = set(fleet.processes)
    port = str(fleet.address[1])
    up = fleet.run("up", "--preset", "sim", "--port", port, "--detach", timeout_s=240)
    assert up.returncode == 0, up.stderr
    _, left = psutil.wait_procs(of_killed, timeout=5)
    assert not left
    with fleet.client() as client:
        assert client.get("/v1/models").status_code == 200

    kill_supervisor(fleet)
    stopped = fleet.run("down")
    assert stopped.returncode == 0
    assert "not running" in stopped.stderr
    assert "that a killed run had left" in stopped.stderr
    _, left = psutil.wait_procs(fleet.processes, timeout=5)
    assert not left
