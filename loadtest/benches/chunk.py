"""The planner's prefill chunk against vLLM's default: the room it makes, and what TTFT it costs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random

from loadtest.benches.subjects import progress
from loadtest.figures import Figures, Line, Row, paired_ratio, summary
from loadtest.peers import bare_vllm
from loadtest.peers.base import Server, UnavailableError
from serving.adapters.model_configs import load_model_config
from serving.adapters.probe_client import Endpoint, connected
from serving.adapters.settings_sources import read_preset
from serving.errors import ConfigError
from serving.planner.engine_defaults import with_chosen_chunk
from serving.planner.engine_device import CPU
from serving.settings.platform import Settings

BENCH = "chunk"
DEFAULT, PLANNED = "vllm-default", "planner"
ROOM, TTFT = "sequences that fit", "TTFT"
TOLERANCE = 0.25

_TOKEN_IDS = range(1000, 20_000)
_NUM_WARM_UPS = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """One prompt at a time, on both servers in each round."""

    rounds: int = 15
    prompt_tokens: int = 2000


def bench(plan: Plan) -> tuple[list[Line], dict[str, str]]:
    """The figures of both sides, the ratios of the planner's, and the engine's version."""
    figures = Figures()
    versions = {DEFAULT: bare_vllm.install()}
    chunks = {DEFAULT: CPU.default_chunk_tokens, PLANNED: planned_chunk()}
    with ExitStack() as stack:
        servers = {}
        for name, chunk_tokens in chunks.items():
            progress(f"{BENCH}: {name}: chunks of {chunk_tokens} tokens")
            options = {**bare_vllm.ENGINE_OPTIONS, "max_num_batched_tokens": chunk_tokens}
            one = bare_vllm.start((), "", bare_vllm.ONE_PROCESS, options)
            servers[name] = stack.enter_context(one)
            room = float(bare_vllm.cache_config(servers[name])["kv_cache_max_concurrency"])
            figures.add(ROOM, name, room, unit="sequences")
        asyncio.run(_measure(plan, servers, figures))
    ours, base = figures.values(TTFT, PLANNED), figures.values(TTFT, DEFAULT)
    pairs = paired_ratio(f"{TTFT}, by round", PLANNED, ours, against=DEFAULT, base=base)
    return [*figures.lines(base=DEFAULT), pairs], versions


def planned_chunk() -> int:
    """What `galerne up` chooses for the demo model.

    Raises:
        UnavailableError: it chooses nothing.
    """
    model = Settings.model_validate(read_preset("cpu")).models[bare_vllm.MODEL]
    engine = with_chosen_chunk(model, load_model_config(bare_vllm.MODEL)).engine
    if engine.max_num_batched_tokens is None:
        raise UnavailableError("the planner leaves vLLM's default")
    return engine.max_num_batched_tokens


def ratio(rows: Sequence[Row], case: str) -> float:
    """The planner's figure over the default's."""
    found = [row for row in rows if isinstance(row, Line) and row.case == case]
    return next(row.ratio for row in found if row.subject == PLANNED and row.ratio is not None)


async def _measure(plan: Plan, servers: Mapping[str, Server], figures: Figures) -> None:
    rng = Random()
    for turn in range(-_NUM_WARM_UPS, plan.rounds):
        sides = list(servers.items())
        for name, server in sides if turn % 2 == 0 else reversed(sides):
            ttft_s = await _ttft_s(server, rng.choices(_TOKEN_IDS, k=plan.prompt_tokens))
            if turn >= 0:
                figures.add(TTFT, name, 1000 * ttft_s, unit="ms")
    for name in servers:
        told = summary(TTFT, name, figures.values(TTFT, name), unit="ms")
        progress(f"{BENCH}: {name}: TTFT {told.value} ms")


async def _ttft_s(server: Server, prompt: list[int]) -> float:
    """
    Raises:
        UnavailableError: the stream failed.
    """
    try:
        async with connected(Endpoint(server.url, server.model)) as client:
            sent, first = await client.stream(prompt, 1)
    except ConfigError as error:
        raise UnavailableError(error.message) from error
    return first - sent
