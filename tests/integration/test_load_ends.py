"""How load tests end that do not go as they should, and workers that outlast one."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from loadtest.engines import Timing, engine
from loadtest.generator.link import Patience, join, linked
from loadtest.generator.messages import Orders, Report, Start
from loadtest.processes import free_port

GALERNE = (sys.executable, "-m", "serving", "load")
SHORT = ("--model", "sim", "--arrivals", "constant:10", "--duration", "1", "--prompt-tokens", "20",
         "--output-tokens", "5")  # fmt: skip
TOKEN = secrets.token_hex(16)
ENV = {**os.environ, "COLUMNS": "200", "GALERNE_LOAD_TOKEN": TOKEN}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with engine("sim", Timing(overhead_s=0.01, interval_s=0.005)) as server:
        yield server.url


@contextmanager
def started(*words: str | Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*GALERNE, *map(str, words)], env=ENV, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_ctrl_c_is_heard_while_the_endpoint_says_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        words = ("run", "--url", f"http://127.0.0.1:{port}", *SHORT, "--out", tmp_path / "out")
        with started(*words) as process:
            asking, _ = silent.accept()
            process.send_signal(signal.SIGINT)
            _, complaints = process.communicate(timeout=10)
            asking.close()

    assert process.returncode == 130, complaints
    assert "Traceback" not in complaints
    assert not (tmp_path / "out").exists()


def test_a_second_ctrl_c_ends_at_once(url: str, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    words = ("run", "--url", url, *SHORT, "--out", tmp_path / "out", "--listen", address)
    with started(*words) as process:
        interrupt = partial(process.send_signal, signal.SIGINT)
        asyncio.run(told_to_stop(f"http://{address}", interrupt))
        interrupt()
        _, complaints = process.communicate(timeout=10)

    assert process.returncode == 130, complaints
    assert "Traceback" not in complaints
    assert not (tmp_path / "out").exists()


async def told_to_stop(coordinator: str, interrupt: Callable[[], None]) -> None:
    """A worker of a run that has begun hears of its interruption; it never says that it has ended,
    so that the run cannot end by itself."""
    async with linked(coordinator, TOKEN) as link:
        share = await join(link.ask, Patience(30))
        await link.ask("/ready", share.member, Start)
        interrupt()
        report = Report(share.worker, [], 0, 0)
        while not (await link.ask("/report", report, Orders)).stop:
            pass


def test_a_verdict_outlives_results_that_cannot_be_written(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with started("run", "--url", url, *SHORT, "--out", folder, "--json") as process:
        assert process.stderr is not None
        next(line for line in process.stderr if "completed" in line)  # it has been made by then
        folder.rmdir()
        folder.touch()
        said, complaints = process.communicate(timeout=60)

    assert json.loads(said.splitlines()[-1])["completed"] == 10
    assert f"cannot write results to {folder}" in complaints
    assert process.returncode == 1


def test_a_worker_goes_from_run_to_run(url: str, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    # The worker comes first: it waits for its coordinator.
    with started("worker", "--join", f"http://{address}") as worker:
        words = ("ab", "--url", url, "--other", url + "/v1", *SHORT, "--rounds", "1",
                 "--out", tmp_path / "out", "--max-regression", "9",
                 "--listen", address)  # fmt: skip
        with started(*words) as process:
            said, complaints = process.communicate(timeout=90)
        assert worker.wait(20) == 0

    assert "ttft_ms.p50" in said
    assert complaints.count("1 of 1 workers have joined") == 2


def test_a_worker_tells_a_coordinator_from_other_servers(url: str) -> None:
    with started("worker", "--join", url) as worker:
        _, complaints = worker.communicate(timeout=30)

    assert worker.returncode == 1
    assert "Traceback" not in complaints
    assert "coordinator" in complaints


def test_probes_outlive_a_lost_worker(url: str, tmp_path: Path) -> None:
    slo = tmp_path / "slo.yaml"
    slo.write_text("request: {latency_ms: 30000}")
    # Beside slow answers a busy machine does not make a generator that is too late.
    slow = ("--no-stream", "--output-tokens", "100", "--duration", "4")
    words = ("capacity", "--url", url, *SHORT, *slow, "--slo", slo, "--start", "10",
             "--out", tmp_path / "out")  # fmt: skip
    with started(*words) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if line.startswith("probe 2"))
        os.kill(_child_of(process), signal.SIGKILL)
        _, complaints = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "a worker ended with -9" in complaints
    (probe,) = json.loads((tmp_path / "out" / "capacity.json").read_text())["probes"]
    assert probe["rate_rps"] == 10
    assert (tmp_path / "out" / "capacity.html").exists()


def _child_of(process: subprocess.Popen[str]) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 20
    while not (found := children.read_text().split()):
        assert time.monotonic() < deadline
    return int(found[0])
