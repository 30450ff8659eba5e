"""The calibrated simulator against the real engine: TTFT and ITL under the same mixed load."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from loadtest.benches.subjects import progress
from loadtest.client import run
from loadtest.engines import set_options
from loadtest.figures import Figures, Line, Row, paired_ratio, quantile
from loadtest.peers import bare_vllm
from loadtest.peers.base import Server, UnavailableError
from loadtest.peers.single import Command, serve
from loadtest.processes import free_port
from serving.adapters.probe_client import Endpoint, ProbeClient, connected
from serving.errors import ConfigError

BENCH = "fidelity"
REAL, SIMULATED = "bare-vllm-one-process", "simulator"
TOLERANCE = 0.15

_BY_ROUND = ", by round"
_TOKEN_IDS = range(1000, 20_000)
_CALIBRATION_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Plan:
    """The load: Poisson arrivals, prompts and outputs of evenly spread lengths (inclusive)."""

    rounds: int = 3
    num_requests: int = 60
    duration_s: float = 40.0
    prompt_tokens: tuple[int, int] = (32, 600)
    output_tokens: tuple[int, int] = (16, 64)
    seed: int = 1


class Arrival(NamedTuple):
    """One request of the load."""

    at_s: float
    prompt: list[int]
    num_tokens: int


class Latencies(NamedTuple):
    """Of all requests of one round, in seconds."""

    ttfts: list[float]
    itls: list[float]


def arrivals(plan: Plan, turn: int) -> list[Arrival]:
    """The requests of one round; the turn changes the words, never times or lengths.

    >>> plan = Plan(num_requests=2)
    >>> first, again = arrivals(plan, 0), arrivals(plan, 1)
    >>> [a.at_s for a in first] == [a.at_s for a in again], first[0].prompt == again[0].prompt
    (True, False)
    """
    shape, words = Random(plan.seed), Random(f"{plan.seed}-{turn}")
    at_s = 0.0
    made = []
    for _ in range(plan.num_requests):
        at_s += shape.expovariate(plan.num_requests / plan.duration_s)
        prompt = words.choices(_TOKEN_IDS, k=shape.randint(*plan.prompt_tokens))
        made.append(Arrival(at_s, prompt, shape.randint(*plan.output_tokens)))
    return made


def bench(plan: Plan) -> tuple[list[Line], dict[str, str]]:
    """The figures of both sides, their ratios with a verdict, and the engine's version.

    Each round calibrates anew: a machine that others use is not as fast as it was minutes ago.
    """
    figures = Figures()
    versions = {REAL: bare_vllm.install()}
    with bare_vllm.ONE_PROCESS_PEER.start((), "") as real:
        for turn in range(plan.rounds):
            found = calibration(real)
            _record_calibration(found, figures)
            with simulator(real, found["timing"]) as simulated:
                sides = [(REAL, real), (SIMULATED, simulated)]
                for name, server in sides if turn % 2 == 0 else reversed(sides):
                    _record(name, run(_load(plan, turn, server)), figures)
    return [*figures.lines(), *_verdicts(figures)], versions


def is_faithful(rows: Sequence[Row]) -> bool:
    """Whether every quantile's ratio, the median over the rounds, is within `TOLERANCE` of 1."""
    lines = [row for row in rows if isinstance(row, Line)]
    ratios = [line.value for line in lines if line.case.endswith(_BY_ROUND)]
    return len(ratios) == 4 and all(map(_is_near, ratios))


def calibration(server: Server) -> dict[str, Any]:
    """What `galerne sim calibrate --json` prints of a server.

    Raises:
        UnavailableError: it failed.
    """
    words = [
        sys.executable, "-m", "serving", "sim", "calibrate", "--endpoint", server.url,
        "--model", server.model, "--chunk-tokens", str(_chunk_tokens()),
        "--window", str(_window()), "--json",
    ]  # fmt: skip
    progress(f"{BENCH}: calibrating")
    begun = time.monotonic()
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=_CALIBRATION_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise UnavailableError(f"calibration failed: {done.stderr[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    found["took_s"] = time.monotonic() - begun
    progress(f"{BENCH}: {found['timing']}")
    return found


@contextmanager
def simulator(real: Server, timing: dict[str, Any]) -> Iterator[Server]:
    """`galerne sim serve` with this timing and the real engine's limits and tokenizer."""
    cache = bare_vllm.cache_config(real)
    settings = {
        **{f"simulator.timing.{name}": value for name, value in timing.items()},
        "simulator.kv_blocks": cache["num_gpu_blocks"],
        "simulator.sliding_window": _window(),
        "engine.block_size": cache["block_size"],
        "engine.max_num_seqs": bare_vllm.ENGINE_OPTIONS["max_num_seqs"],
        "engine.max_num_batched_tokens": _chunk_tokens(),
        "engine.max_model_len": bare_vllm.ENGINE_OPTIONS["max_model_len"],
        "weights.source": "demo",
    }
    port = free_port()
    words = [sys.executable, "-m", "serving", "sim", "serve", "--port", str(port)]
    words += ["--model", bare_vllm.MODEL, *set_options(settings)]
    command = Command(words, f"http://127.0.0.1:{port}")
    with serve(SIMULATED, command, bare_vllm.MODEL, role="engine") as server:
        yield server


async def _load(plan: Plan, turn: int, server: Server) -> Latencies:
    """One round, open loop: requests are sent when they are due, whatever is unanswered.

    Raises:
        UnavailableError: a stream failed.
    """
    async with connected(Endpoint(server.url, server.model)) as client:
        # Opens a connection and touches every path once.
        await client.stream(Random(turn).choices(_TOKEN_IDS, k=48), 8)
        tasks = [_one(client, arrival) for arrival in arrivals(plan, turn)]
        try:
            streams = await asyncio.gather(*tasks)
        except ConfigError as error:
            raise UnavailableError(error.message) from error
    return Latencies(
        ttfts=[times[1] - times[0] for times in streams],
        itls=[later - at for times in streams for at, later in pairwise(times[1:])],
    )


async def _one(client: ProbeClient, arrival: Arrival) -> list[float]:
    await asyncio.sleep(arrival.at_s)
    return await client.stream(arrival.prompt, arrival.num_tokens)


def _record(subject: str, found: Latencies, figures: Figures) -> None:
    for case, values, share in _quantiles(found):
        figures.add(case, subject, 1000 * quantile(values, share), unit="ms")
    figures.add("machine's load after", subject, os.getloadavg()[0], unit="processes")
    told = {case: round(1000 * quantile(values, q), 1) for case, values, q in _quantiles(found)}
    progress(f"{BENCH}: {subject}: {told}")


def _quantiles(found: Latencies) -> list[tuple[str, list[float], float]]:
    return [
        (f"{name} p{share * 100:.0f}", values, share)
        for name, values in (("TTFT", found.ttfts), ("ITL", found.itls))
        for share in (0.5, 0.9)
    ]


def _verdicts(figures: Figures) -> list[Line]:
    """The ratio of every quantile, round by round, and whether its median is near enough to 1."""
    lines = []
    for case in ("TTFT p50", "TTFT p90", "ITL p50", "ITL p90"):
        ours, base = figures.values(case, SIMULATED), figures.values(case, REAL)
        line = paired_ratio(case + _BY_ROUND, SIMULATED, ours, against=REAL, base=base)
        verdict = "within" if _is_near(line.value) else "NOT within"
        lines.append(replace(line, note=f"{verdict} {TOLERANCE:.0%}"))
    return lines


def _is_near(ratio: float | None) -> bool:
    return ratio is not None and abs(ratio - 1) <= TOLERANCE


def _record_calibration(found: dict[str, Any], figures: Figures) -> None:
    figures.add("calibration took", SIMULATED, found["took_s"], unit="s")
    worst = found["fit"]["worst_error_ratio"]
    figures.add("calibration, worst error of a probe", SIMULATED, worst, unit="ratio")
    for name, value in found["timing"].items():
        figures.add(f"timing.{name}", SIMULATED, value, unit="")


def _chunk_tokens() -> int:
    return int(str(bare_vllm.ENGINE_OPTIONS["max_num_batched_tokens"]))


def _window() -> int:
    config = json.loads(Path(bare_vllm.model_folder(), "config.json").read_text())
    return int(config["sliding_window"])
