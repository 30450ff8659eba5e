"""Locust counts what fails, and takes times of whole answers alone."""

from __future__ import annotations

import asyncio
import csv
import os
from pathlib import Path

import pytest
from scripted_server import Call, Script, scripted_server

from loadtest.clients import locust
from loadtest.clients.base import CHECKOUT
from loadtest.peers.base import UnavailableError
from loadtest.peers.installation import program

TOKEN = b'data: {"choices": [{"index": 0, "delta": {"content": "ab "}}]}\n\n'
END = b'data: {"choices": [], "usage": {"completion_tokens": 2}}\n\ndata: [DONE]\n\n'


async def whole(call: Call) -> None:
    await call.begin_stream()
    for data in (TOKEN, TOKEN, END):
        await call.chunk(data)
    await call.end_stream()


async def busy(call: Call) -> None:
    await call.answer(429, b'{"error": {"code": "overloaded"}}', "retry-after: 2")


async def cut(call: Call) -> None:
    await call.begin_stream()
    await call.chunk(TOKEN)
    call.reset()


async def truncated(call: Call) -> None:
    await call.begin_stream()
    await call.chunk(TOKEN)
    await call.end_stream()


async def error_event(call: Call) -> None:
    await call.begin_stream()
    await call.chunk(TOKEN + b'data: {"error": {"code": "engine_lost"}}\n\n')
    await call.end_stream()


async def reset_at_once(call: Call) -> None:
    call.reset()


SCRIPTS: tuple[Script, ...] = (whole, busy, cut, truncated, error_event, reset_at_once)


async def play(call: Call) -> None:
    await SCRIPTS[call.number % len(SCRIPTS)](call)


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    try:
        locust.CLIENT.install()
    except UnavailableError as error:
        pytest.skip(f"cannot be installed here: {error}")


@pytest.mark.timeout(600)
async def test_failures_are_counted_and_not_timed(tmp_path: Path) -> None:
    prefix = tmp_path / "run"
    async with scripted_server(play) as server:
        running = await asyncio.create_subprocess_exec(
            program("locust", "locust"), "-f", CHECKOUT / "loadtest" / "locustfile.py",
            "--headless", "--host", server.url, "--users", "4", "--spawn-rate", "4",
            "--user-rate", "2", "--run-time", "4s", "--only-summary", "--csv", prefix,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await asyncio.wait_for(running.communicate(), 60)

    assert running.returncode == 1, said.decode()
    found = {row["Name"]: row for row in rows(Path(f"{prefix}_stats.csv"))}
    requests, failures = (
        int(found["Aggregated"][f"{kind} Count"]) for kind in ("Request", "Failure")
    )
    for name in ("TTFT", "ITL", "TPOT", "output"):
        assert int(found[name]["Request Count"]) == requests - failures > 0
    assert float(found["output"]["Average Response Time"]) == 2.0
    errors = " ".join(row["Error"] for row in rows(Path(f"{prefix}_failures.csv")))
    for name in ("overloaded", "truncated", "engine_lost", "connection_lost", "connection closed"):
        assert name in errors
