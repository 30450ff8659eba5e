"""Engines without a model, for the benches that measure what stands in front of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from loadtest.peers.base import Server
from loadtest.peers.single import Command, serve
from loadtest.processes import free_port

MODEL = "sim"
Kind = Literal["fake", "sim"]

_MAX_STREAMS = 8192
_MAX_TOKENS_PER_STEP = 1_000_000


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds from a request to its first chunk beside one step, and between chunks."""

    overhead_s: float
    interval_s: float


def simulator_settings(timing: Timing) -> dict[str, Any]:
    """Settings of a simulated model, by path below it: steps take `interval_s` whatever is in them,
    and nothing waits for room."""
    return {
        "simulator.timing.step_s": timing.interval_s,
        "simulator.timing.overhead_s": timing.overhead_s,
        "simulator.timing.prefill_tokens_per_s": 1e12,
        "simulator.timing.decode_s_per_sequence": 0,
        "simulator.timing.attention_s_per_token": 0,
        "simulator.kv_blocks": 200_000,
        "simulator.start_s": 0,
        "engine.max_num_seqs": _MAX_STREAMS,
        "engine.max_num_batched_tokens": _MAX_TOKENS_PER_STEP,
        "max_concurrent_requests": _MAX_STREAMS,
    }


def command(kind: Kind, timing: Timing, *, port: int) -> Command:
    """How to run one engine."""
    if kind == "fake":
        # A simulated engine's first chunk takes a step besides the overhead.
        ttft_s = timing.overhead_s + timing.interval_s
        words = [
            sys.executable, "-m", "loadtest.fake_engine", "--port", str(port), "--model", MODEL,
            "--ttft-s", str(ttft_s), "--interval-s", str(timing.interval_s),
        ]  # fmt: skip
        return Command(words, f"http://127.0.0.1:{port}")
    return simulator(simulator_settings(timing), port=port)


def simulator(settings: Mapping[str, Any], *, port: int) -> Command:
    """How to run one simulated engine with these settings of its model, by path."""
    words = [sys.executable, "-m", "serving", "sim", "serve", "--port", str(port)]
    return Command([*words, *set_options(settings)], f"http://127.0.0.1:{port}")


def set_options(settings: Mapping[str, Any]) -> list[str]:
    """`--set PATH=VALUE` for each setting.

    >>> set_options({"a.b": 1})
    ['--set', 'a.b=1']
    """
    return [word for path, value in settings.items() for word in ("--set", f"{path}={value}")]


@contextmanager
def engine(kind: Kind, timing: Timing) -> Iterator[Server]:
    """One running engine.

    Raises:
        UnavailableError: it does not come up.
    """
    with serve(
        f"{kind} engine", command(kind, timing, port=free_port()), MODEL, role="engine"
    ) as e:
        yield e
