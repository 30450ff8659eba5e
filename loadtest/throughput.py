"""Streaming throughput of Galerne against bare vLLM servers on the same model and machine.

    .venv/bin/python loadtest/throughput.py --rounds 6 --restarts 2

Each side is started alone, warmed up, measured for some rounds and stopped; sides alternate, so
that neither pays for the other's idle processes nor for a slow drift of the machine. Prints one
JSON line per side and the ratio with its spread, and writes the same to `loadtest/results/`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from serving.engine.arguments import engine_environment
from serving.settings import ResourceSettings

NUM_STREAMS = 16
NUM_TOKENS = 64
PROMPT = "Tell me a long story about the sea, the wind and ship number {index}."
ENGINE_OPTIONS = {
    "max-model-len": "4096", "max-num-seqs": "64", "max-num-batched-tokens": "256",
    "dtype": "bfloat16", "kv-cache-memory-bytes": str(1024**3),
}  # fmt: skip
"""What the `cpu` preset sets, so that both sides run the same engine."""

ENGINE_ENVIRONMENT = engine_environment(
    ResourceSettings(device="cpu", num_cpus=0), num_cores=len(os.sched_getaffinity(0))
)

RESULTS = Path(__file__).parent / "results"
BIN = Path(sys.executable).parent
START_TIMEOUT_S = 180.0


class Server(NamedTuple):
    """A running side: where it listens and how to call it."""

    url: str
    headers: dict[str, str]


def free_port() -> int:
    """A TCP port of the loopback address that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def bare_vllm(environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """vLLM's own OpenAI server."""
    port = free_port()
    command = [BIN / "galerne", "model", "path", "demo"]
    model = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    options = [word for name, value in ENGINE_OPTIONS.items() for word in (f"--{name}", value)]
    process = subprocess.Popen(
        [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model,
         "--served-model-name", "demo", "--port", str(port), "--enforce-eager",
         "--disable-uvicorn-access-log", *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        asyncio.run(wait_until_up(url))
        yield Server(url, {})
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


@contextmanager
def galerne() -> Iterator[Server]:
    """The platform with its `cpu` preset."""
    port = free_port()
    with tempfile.TemporaryDirectory() as state:
        env = {**os.environ, "GALERNE_STATE_DIR": state}

        def run(*words: str) -> str:
            command = [str(BIN / "galerne"), *words]
            done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
            return done.stdout

        run("up", "--preset", "cpu", "--port", str(port), "--detach")
        try:
            key = json.loads(run("keys", "create", "--name", "bench", "--json"))["key"]
            url = f"http://127.0.0.1:{port}"
            yield Server(url, {"Authorization": f"Bearer {key}"})
        finally:
            run("down")


SIDES = {
    "bare-vllm": bare_vllm,
    "bare-vllm-one-process": partial(bare_vllm, ENGINE_ENVIRONMENT),
    "galerne": galerne,
}
"""Galerne runs a CPU engine in one process (ADR 6), which vLLM does not do by itself; so there are
two sides to compare with: vLLM as it comes, and vLLM with that executor."""


async def wait_until_up(url: str) -> None:
    """Return when the server answers its health check."""
    deadline = time.monotonic() + START_TIMEOUT_S
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            try:
                async with session.get(f"{url}/health") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.5)
    raise TimeoutError(f"{url} did not come up in {START_TIMEOUT_S:.0f} s")


async def stream(session: aiohttp.ClientSession, server: Server, index: int) -> tuple[int, float]:
    """Number of content chunks and time to the first one, in seconds, of one stream."""
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": PROMPT.format(index=index)}],
        "max_tokens": NUM_TOKENS,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
    }
    begun = time.monotonic()
    first: float | None = None
    num_chunks = 0
    async with session.post(
        f"{server.url}/v1/chat/completions", json=body, headers=server.headers
    ) as answer:
        answer.raise_for_status()
        async for part in answer.content.iter_any():
            num_chunks += part.count(b"data: {")
            first = first or time.monotonic() - begun
    return num_chunks, first or float("nan")


async def measure(server: Server, rounds: int) -> list[dict[str, float]]:
    """One entry per round of parallel streams; a warm-up round is thrown away."""
    results = []
    async with aiohttp.ClientSession() as session:
        for number in range(rounds + 1):
            begun = time.monotonic()
            streams = (stream(session, server, i) for i in range(NUM_STREAMS))
            done = await asyncio.gather(*streams)
            took = time.monotonic() - begun
            if number:
                results.append({
                    "chunks_per_s": sum(chunks for chunks, _ in done) / took,
                    "ttft_p50_s": statistics.median(ttft for _, ttft in done),
                })  # fmt: skip
    return results


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")), platform.processor(),
    )  # fmt: skip
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version()}


def summary(subject: str, rounds: list[dict[str, float]]) -> dict[str, Any]:
    """One JSON line about one side."""
    values = [entry["chunks_per_s"] for entry in rounds]
    return {
        "case": f"{NUM_STREAMS} streams x {NUM_TOKENS} tokens",
        "subject": subject,
        "value": round(statistics.median(values), 1),
        "unit": "chunks/s",
        "spread": [round(min(values), 1), round(max(values), 1)],
        "ttft_p50_ms": round(1000 * statistics.median(r["ttft_p50_s"] for r in rounds), 1),
    }


def ratio(against: str, starts: list[dict[str, float]]) -> dict[str, Any]:
    """One JSON line: Galerne's throughput over that of another side, start by start."""
    values = [start["galerne"] / start[against] for start in starts]
    return {
        "case": f"{NUM_STREAMS} streams x {NUM_TOKENS} tokens",
        "subject": "galerne",
        "against": against,
        "ratio": round(statistics.median(values), 3),
        "ratio_spread": [round(min(values), 3), round(max(values), 3)],
    }


def main() -> None:
    """Measure both sides in turn and report the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="measured rounds per start")
    parser.add_argument("--restarts", type=int, default=2, help="starts of each side")
    options = parser.parse_args()
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
    starts: list[dict[str, float]] = []
    for _ in range(options.restarts):
        starts.append({})
        for name, start in SIDES.items():
            with start() as server:
                measured = asyncio.run(measure(server, options.rounds))
            rounds[name] += measured
            starts[-1][name] = statistics.median(r["chunks_per_s"] for r in measured)
            print(f"{name}: {starts[-1][name]:.1f} chunks/s", file=sys.stderr)
    lines = [summary(name, entries) for name, entries in rounds.items()]
    lines += [ratio(name, starts) for name in SIDES if name != "galerne"]
    for line in lines:
        print(json.dumps(line))
    RESULTS.mkdir(exist_ok=True)
    report = {"machine": machine(), "results": lines}
    (RESULTS / "throughput.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
