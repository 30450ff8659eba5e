"""A trace of requests replayed on a fleet of simulated replicas: what each way of routing makes of
its shared prefixes, and of the time to the first token."""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, get_args

import aiohttp

from loadtest.benches.subjects import installed, progress
from loadtest.client import run
from loadtest.engines import MODEL, simulator
from loadtest.figures import Figures, blocks, quantile, rounded
from loadtest.peers import galerne, smg, vllm_router
from loadtest.peers.base import Peer, Server, UnavailableError
from loadtest.peers.single import serve
from loadtest.processes import free_port
from loadtest.workload.conversations import generate
from loadtest.workload.oracle import oracle_hit_ratio
from loadtest.workload.prompts import Prompts
from serving.errors import ConfigError
from serving.lab.traces import TraceRequest, read_trace
from serving.settings.routing import RoutingSettings

BENCH = "routing"
POLICIES: tuple[str, ...] = get_args(RoutingSettings.model_fields["policy"].annotation)
DEFAULT_POLICIES = ("kv_aware", "prefix_approx", "round_robin")
ROUTERS = {"smg": smg.CACHE_AWARE, "vllm-router": vllm_router.CACHE_AWARE}

_BLOCK_SIZE = 16
_KV_BLOCKS = 28_000
_SETTLE_S = 5.0
_NUM_PARTS = 4
_MAX_FAILED_RATIO = 0.01
_PROMPTS = Prompts()
_LATENCY_SUM = re.compile(r"^vllm:e2e_request_latency_seconds_sum\S* (\S+)$", re.MULTILINE)
_SETTINGS: Mapping[str, Any] = {
    "simulator.kv_blocks": _KV_BLOCKS,
    "simulator.sliding_window": "null",
    "simulator.start_s": 0,
    "engine.max_model_len": 131_072,
    "engine.max_num_batched_tokens": 8192,
    "engine.max_num_seqs": 256,
}
"""A 7B model with full attention on a GPU of 80 GB; the timing is the simulator's own."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`trace` is a file, or `None` for a made-up one.

    Time runs `speed` times as fast as in the trace, and answers are as many times shorter, so that
    they take the same part of it. At 3.5, prompts take nine tenths of what 8 replicas can compute,
    if nothing of them is cached.
    """

    trace: Path | None = None
    num_requests: int = 3000
    speed: float = 3.5
    replicas: int = 8


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of the trace under one policy.

    `hit_ratio` is the share of prompt tokens that engines found in their caches,
    `oracle_hit_ratio` what one cache as large as all of theirs would have found. `load` is the
    requests an engine has on average; times in ms, the spread over four quarters of the trace.
    """

    policy: str
    hit_ratio: float
    oracle_hit_ratio: float
    ttft_p50_ms: float
    ttft_p90_ms: float
    ttft_p90_spread_ms: tuple[float, float]
    load_max_over_mean: float
    failed: int

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    def cells(self) -> dict[str, str]:
        """A row of the table of results."""
        low, high = self.ttft_p90_spread_ms
        return {
            "policy": self.policy,
            "hit ratio": f"{self.hit_ratio:.1%}",
            "of the oracle's": f"{self.hit_ratio / self.oracle_hit_ratio:.1%}",
            "TTFT p50": f"{self.ttft_p50_ms:g} ms",
            "TTFT p90": f"{self.ttft_p90_ms:g} ms",
            "by quarter": f"{low:g} to {high:g} ms",
            "greatest load over mean": f"{self.load_max_over_mean:.2f}",
            "failed": str(self.failed),
        }


@dataclass(slots=True)
class Answered:
    """What its client saw of one request; `ttft_s` is `None` if it failed."""

    ttft_s: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Fleet:
    """A subject over its engines, and how to ask those for their metrics."""

    server: Server
    metrics_urls: Sequence[str]
    metrics_headers: Mapping[str, str]


def bench(
    plan: Plan, policies: Sequence[str], routers: Sequence[str]
) -> tuple[list[Replayed], dict[str, str]]:
    """A row for each policy of Galerne and for each other router that can run, and its version.

    Raises:
        UnavailableError: the trace cannot be read.
    """
    requests = _requests_of(plan)
    capacity = plan.replicas * (_KV_BLOCKS - 1) * _BLOCK_SIZE
    oracle = oracle_hit_ratio(requests, capacity_tokens=capacity)
    progress(f"{BENCH}: {len(requests)} requests in {requests[-1].at_s / plan.speed:.0f} s")
    wanted = [galerne.PEER, *(ROUTERS[name] for name in routers)]
    ready, versions = installed(BENCH, wanted, Figures())
    fleets: dict[str, AbstractContextManager[_Fleet]] = {
        f"galerne {policy}": _galerne(plan, policy) for policy in policies
    }
    fleets |= {f"{peer.name} cache_aware": _router(plan, peer) for peer in ready[1:]}
    rows: list[Replayed] = []
    for name, starting in fleets.items():
        try:
            with starting as fleet:
                time.sleep(_SETTLE_S)
                answers = run(_replay(plan, requests, fleet.server))
                row = summarize(name, answers, oracle, _latency_sums(fleet))
        except UnavailableError as error:
            progress(f"{BENCH}: {name} skipped: {error}")
            continue
        progress(f"{BENCH}: {row.to_json()}")
        rows.append(row)
    return rows, versions


def summarize(
    policy: str, answers: Sequence[Answered], oracle: float, busy_s: Sequence[float]
) -> Replayed:
    """The figures of one replay.

    Args:
        answers: in the order of their arrival.
        oracle: hit ratio of the oracle.
        busy_s: per engine, the sum of the times its requests took.

    Raises:
        UnavailableError: too many requests have failed.
    """
    ttfts_s = [answer.ttft_s for answer in answers if answer.ttft_s is not None]
    num_failed = len(answers) - len(ttfts_s)
    if num_failed > _MAX_FAILED_RATIO * len(answers):
        raise UnavailableError(f"{num_failed} of {len(answers)} requests have failed")
    p90s_ms = [rounded(1000 * quantile(part, 0.9)) for part in blocks(ttfts_s, _NUM_PARTS)]
    num_cached = sum(answer.cached_tokens for answer in answers)
    return Replayed(
        policy=policy,
        hit_ratio=rounded(num_cached / sum(answer.prompt_tokens for answer in answers)),
        oracle_hit_ratio=rounded(oracle),
        ttft_p50_ms=rounded(1000 * quantile(ttfts_s, 0.5)),
        ttft_p90_ms=rounded(1000 * quantile(ttfts_s, 0.9)),
        ttft_p90_spread_ms=(min(p90s_ms), max(p90s_ms)),
        load_max_over_mean=rounded(max(busy_s) * len(busy_s) / sum(busy_s)),
        failed=num_failed,
    )


def _requests_of(plan: Plan) -> Sequence[TraceRequest]:
    if plan.trace is None:
        return generate(plan.num_requests, Random(0))
    try:
        return read_trace(plan.trace, "mooncake", limit=plan.num_requests).requests
    except ConfigError as error:
        raise UnavailableError(error.message) from error


async def _replay(plan: Plan, requests: Sequence[TraceRequest], server: Server) -> list[Answered]:
    """Send each request when it is due, whatever has become of those before it."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        begun = time.perf_counter()
        sent = []
        for number, request in enumerate(requests):
            await asyncio.sleep(begun + request.at_s / plan.speed - time.perf_counter())
            sent.append(asyncio.create_task(_ask(plan, request, server, session)))
            if number % 500 == 499:
                progress(f"{BENCH}: {number + 1} sent, {time.perf_counter() - begun:.0f} s")
        return await asyncio.gather(*sent)


async def _ask(
    plan: Plan, request: TraceRequest, server: Server, session: aiohttp.ClientSession
) -> Answered:
    blocks = request.blocks or ()
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": _text_of(request)}],
        "max_tokens": max(round(request.output_tokens / plan.speed), 1),
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        # Conversations name themselves, as good clients do; only `session` goes by that.
        "user": f"conversation-{blocks[1] if len(blocks) > 1 else 0}",
    }
    data = json.dumps(body).encode()
    headers = {**server.headers, "content-type": "application/json"}
    url = f"{server.url}/v1/chat/completions"
    begun, ttft_s, end = time.perf_counter(), None, b""
    try:
        async with session.post(url, data=data, headers=headers) as answer:
            if answer.status != 200:
                return Answered()
            async for part in answer.content.iter_any():
                ttft_s = ttft_s or time.perf_counter() - begun
                end = (end + part)[-2048:]
    except (aiohttp.ClientError, TimeoutError, OSError):
        return Answered()
    return answered(ttft_s, end)


def _text_of(request: TraceRequest) -> str:
    return _PROMPTS.text(request.blocks or (), request.prompt_tokens).decode()


def answered(ttft_s: float | None, end: bytes) -> Answered:
    """What the end of a stream tells: its last event but `[DONE]` has the usage.

    >>> usage = b'{"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}'
    >>> answered(0.1, b'data: {"choices": [], "usage": ' + usage + b'}\\n\\ndata: [DONE]\\n\\n')
    Answered(ttft_s=0.1, prompt_tokens=9, cached_tokens=4)
    >>> answered(0.1, b'data: {"choices": []}\\n\\n').ttft_s is None
    True
    """
    *_, last, done = [b"", b"", *end.strip().split(b"\n\n")]
    if done.strip() != b"data: [DONE]" or b'"usage"' not in last:
        return Answered()
    usage = json.loads(last.strip().removeprefix(b"data: "))["usage"]
    details = usage.get("prompt_tokens_details") or {}
    return Answered(ttft_s, usage["prompt_tokens"], details.get("cached_tokens") or 0)


@contextmanager
def _galerne(plan: Plan, policy: str) -> Iterator[_Fleet]:
    settings = {**_SETTINGS, "routing.policy": policy, "routing.warm_up_s": 0}
    words = galerne.simulated_words(settings, replicas=plan.replicas)
    with galerne.started(galerne.SIM_MODEL, words) as (platform, server):
        headers = platform.metrics_headers()
        yield _Fleet(server, galerne.engine_metrics(server.url, headers), headers)


@contextmanager
def _router(plan: Plan, peer: Peer) -> Iterator[_Fleet]:
    with ExitStack() as running:
        urls = []
        for _ in range(plan.replicas):
            engine = simulator(_SETTINGS, port=free_port())
            urls.append(running.enter_context(serve("engine", engine, MODEL)).url)
        server = running.enter_context(peer.start(urls, MODEL))
        yield _Fleet(server, [f"{url}/metrics" for url in urls], {})


def _latency_sums(fleet: _Fleet) -> list[float]:
    """Per engine, the seconds that its requests have taken in all."""
    sums = []
    for url in fleet.metrics_urls:
        request = urllib.request.Request(url, headers=dict(fleet.metrics_headers))
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read().decode()
        sums.append(sum(map(float, _LATENCY_SUM.findall(text))))
    return sums
