"""A simulated engine accounts for prompts and KV blocks exactly as the real one does.

Both get one script of requests. After each step of it they must agree on usage, on what the prefix
cache was asked and had, and on the KV blocks in use.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from prometheus_client import CollectorRegistry

from e2e.harness import MODEL, Platform, wait_until
from e2e.lora import ADAPTER
from serving.adapters.state_paths import StatePaths
from serving.adapters.weights import resolve_weights
from serving.core.types import ModelId
from serving.core.wire import INTERNAL_TOKEN, STATE_PATH
from serving.engine.guard import EngineGuard
from serving.settings.engine import EngineSettings
from serving.settings.model import ModelSettings
from serving.settings.simulator import SimulatorSettings, TimingSettings
from serving.settings.weights import WeightSettings
from serving.simulator.launch import SimulatedEngine, build_engine

TOKEN = "test-token"
RUN = uuid.uuid4().hex
"""Begins every prompt, so that nothing of another test or run is in the real engine's cache."""
COUNTERS = (
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:num_preemptions_total",
)
NUM_ATTEMPTS = 3
"""Blocks in use are polled: on a busy machine a look may come a whole step late."""
WORDS = "the sea carries every ship that the wind has left behind on its way to the far shore "
"""18 tokens, more or less."""


async def _no_stream(_receive: Any, _send: Any) -> None:
    raise AssertionError("nobody follows this engine")


class Engine:
    """An engine that serves requests at one address and tells of itself at another."""

    def __init__(self, client: httpx.Client, *, url: str, token: str) -> None:
        self.client = client
        self._url = url.rstrip("/")
        self._headers = {INTERNAL_TOKEN.decode(): token}
        self._own = httpx.Client(timeout=30)

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self._get(STATE_PATH).json()
        return state

    def kv_blocks_used(self) -> int:
        return int(self.state()["load"]["kv_blocks_used"])

    def counters(self) -> dict[str, float]:
        """The sum of each counter over its labels."""
        page = self._get("/metrics").text
        return {name: sum(float(value) for value in _samples(page, name)) for name in COUNTERS}

    def is_idle(self) -> bool:
        state = self.state()
        return state["in_flight"] == state["load"]["running"] == state["load"]["waiting"] == 0

    def usage(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """What the answer tells of tokens, whole or at the end of its stream."""
        answer = self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        if not body.get("stream"):
            return _accounted(answer.json()["usage"])
        *_, last, done = (line for line in answer.text.splitlines() if line)
        assert done == "data: [DONE]"
        return _accounted(json.loads(last.removeprefix("data: "))["usage"])

    def close(self) -> None:
        self._own.close()

    def _get(self, path: str) -> httpx.Response:
        answer = self._own.get(self._url + path, headers=self._headers)
        assert answer.status_code == 200, answer.text
        return answer


def _samples(page: str, name: str) -> list[str]:
    """The values of a metric of the demo model, whose adapter counts apart in vLLM."""
    return re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", page, re.MULTILINE)


def _accounted(usage: dict[str, Any]) -> dict[str, Any]:
    details = usage.get("prompt_tokens_details") or {}
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {
        **{name: usage[name] for name in names},
        "cached_tokens": details.get("cached_tokens"),
        "created_cache_tokens": details.get("created_cache_tokens"),
    }


class Simulator:
    """A simulated engine behind a guard, as in a replica, on an event loop of its own thread."""

    def __init__(self, like: dict[str, Any]) -> None:
        self._settings = ModelSettings(
            simulator=SimulatorSettings(
                # Slow enough to be watched step by step.
                timing=TimingSettings(step_s=0.1, overhead_s=0),
                kv_blocks=like["kv_blocks_total"],
                sliding_window=like["sliding_window"],
            ),
            engine=EngineSettings(
                block_size=like["block_size"],
                max_model_len=like["max_model_len"],
                max_num_batched_tokens=256,
                max_num_seqs=64,
            ),
            adapters={ADAPTER: Path("/adapters/any")},
        )
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(30)

    async def _serve(self) -> None:
        weights = resolve_weights(WeightSettings(source="demo"), StatePaths.from_environment())
        self._engine: SimulatedEngine = build_engine(
            ModelId(MODEL),
            self._settings,
            weights,
            registry=CollectorRegistry(),
            clock=time.monotonic,
        )
        self._engine.loop.start()
        guard = EngineGuard(
            self._engine.app,
            token=TOKEN,
            max_in_flight=1024,
            version="v1",
            state=self._state,
            stream=_no_stream,
        )
        self._server = uvicorn.Server(uvicorn.Config(guard, log_config=None, lifespan="off"))
        self._ready.set()
        await self._server.serve(sockets=[self._socket])
        self._engine.shutdown()

    def _state(self) -> dict[str, Any]:
        load = self._engine.load()
        return {
            "load": {
                "running": load.running,
                "waiting": load.waiting,
                "kv_blocks_used": load.kv_blocks_used,
            }
        }

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)


@pytest.fixture(scope="module")
def engines(platform: Platform) -> Iterator[list[Engine]]:
    """The real engine, asked through the gateway, and a simulated one that was told its size."""
    replica = platform.engine()
    simulator = Simulator(replica["state"]["engine"])
    headers = {INTERNAL_TOKEN.decode(): TOKEN}
    with ExitStack() as stack:
        stack.callback(simulator.stop)
        real_client = stack.enter_context(platform.client())
        client = stack.enter_context(
            httpx.Client(base_url=simulator.url, headers=headers, timeout=60)
        )
        both = [
            Engine(real_client, url=replica["url"], token=platform.internal_token),
            Engine(client, url=simulator.url, token=TOKEN),
        ]
        for engine in both:
            stack.callback(engine.close)
        yield both


def text(topic: str, *, repeats: int) -> str:
    return f"{RUN} {topic}: {WORDS * repeats}"


def completion(prompt: str | list[str] | list[int], **options: Any) -> tuple[str, dict[str, Any]]:
    body = {"model": MODEL, "prompt": prompt, **_fixed_length(), **options}
    return "/v1/completions", body


def chat(*turns: str, **options: Any) -> tuple[str, dict[str, Any]]:
    """A conversation; the user speaks first and last."""
    messages = [
        {"role": "assistant" if index % 2 else "user", "content": turn}
        for index, turn in enumerate(turns)
    ]
    return "/v1/chat/completions", {
        "model": MODEL, "messages": messages, **_fixed_length(), **options
    }  # fmt: skip


def _fixed_length() -> dict[str, Any]:
    return {"max_tokens": 3, "ignore_eos": True, "temperature": 0}


SHORT = text("short", repeats=1)
MEDIUM = text("medium", repeats=18)
"""Some 300 tokens: two whole blocks of 128 and a part."""
LONG = text("long", repeats=60)
"""Twice the window."""
ASSISTANT = "I have heard of that sea. " * 12

SCRIPT: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "a short prompt": [completion(SHORT)],
    "the same again": [completion(SHORT)],
    "a prompt of several blocks": [completion(MEDIUM)],
    "the same again, which hits": [completion(MEDIUM)],
    "its beginning with another end": [completion(MEDIUM + "and home again")],
    "a beginning of it": [completion(MEDIUM[: len(MEDIUM) * 2 // 3])],
    "another salt": [completion(MEDIUM, cache_salt="tenant-a")],
    "that salt again": [completion(MEDIUM, cache_salt="tenant-a")],
    "a third salt": [completion(MEDIUM, cache_salt="tenant-b")],
    "an adapter": [completion(MEDIUM, model=ADAPTER)],
    "the adapter again": [completion(MEDIUM, model=ADAPTER)],
    "longer than the window": [completion(LONG)],
    "longer than the window, again": [completion(LONG)],
    "longer still": [completion(LONG + WORDS * 10)],
    "its first half": [completion(LONG[: len(LONG) // 2])],
    "token ids, exactly two blocks": [completion([5000 + i for i in range(256)])],
    "token ids, exactly two blocks, again": [completion([5000 + i for i in range(256)])],
    "token ids, one more": [completion([5000 + i for i in range(257)])],
    "an output that fills a block": [completion([7000 + i for i in range(120)], max_tokens=12)],
    "a chat": [chat(MEDIUM)],
    "a chat longer than the window": [chat(LONG)],
    "a chat longer than the window, again": [chat(LONG)],
    "its second turn": [chat(MEDIUM, ASSISTANT, "And then?")],
    "its third turn": [chat(MEDIUM, ASSISTANT, "And then?", ASSISTANT * 3, "Why?")],
    "its second turn again": [chat(MEDIUM, ASSISTANT, "And then?")],
    "the chat with another salt": [chat(MEDIUM, cache_salt="tenant-a")],
    "several prompts": [completion([text("one", repeats=9), text("two", repeats=9)])],
    "different prompts at once": [completion(text(f"{i}", repeats=12)) for i in range(4)],
    "known prompts at once": [
        completion(MEDIUM), completion(MEDIUM), completion(LONG), chat(MEDIUM), completion(SHORT),
    ],
}  # fmt: skip


def run_step(engine: Engine, requests: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """What one engine accounts for the requests, all sent at once."""
    before = engine.counters()
    with ThreadPoolExecutor(len(requests)) as pool:
        usages = list(pool.map(lambda request: engine.usage(*request), requests))
    wait_until(engine.is_idle, timeout_s=30, what="idle")
    after = engine.counters()
    return {
        "usages": usages,
        "counted": {name: after[name] - before[name] for name in COUNTERS},
        "kv_blocks_used": engine.kv_blocks_used(),
    }


def test_every_step_of_the_script_is_accounted_alike(engines: list[Engine]) -> None:
    real, simulated = engines
    differing = []
    for name, requests in SCRIPT.items():
        theirs, ours = run_step(real, requests), run_step(simulated, requests)
        print(f"{name}: {json.dumps(theirs)}")
        if theirs != ours:
            differing.append(f"{name}:\n  real      {theirs}\n  simulated {ours}")
    assert not differing, "\n".join(differing)


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind", ["chat", "completion", "completions"])
def test_several_choices_are_accounted_alike(
    engines: list[Engine], kind: str, is_streamed: bool
) -> None:
    """The choices of one prompt hit differently, and usage tells of one of them only."""
    topics = [text(f"{kind} {is_streamed} {number}", repeats=18) for number in range(2)]
    options: dict[str, Any] = {"n": 2, "temperature": 1}
    if is_streamed:
        options |= {"stream": True, "stream_options": {"include_usage": True}}
    request = {
        "chat": lambda: chat(topics[0], **options),
        "completion": lambda: completion(topics[0], **options),
        "completions": lambda: completion(topics, **options),
    }[kind]()
    real, simulated = (run_step(engine, [request]) for engine in engines)
    print(f"several choices, {kind}: {json.dumps(real)}")
    assert real["counted"] == simulated["counted"]
    assert real["usages"] == simulated["usages"]


def test_the_script_hits_and_misses(engines: list[Engine]) -> None:
    """Two engines that cached nothing would agree, too."""
    simulated = engines[1]
    step = run_step(simulated, [completion(MEDIUM)])
    assert step["usages"][0]["cached_tokens"] > 0


def ladder(engine: Engine, request: tuple[str, dict[str, Any]]) -> list[int]:
    """The numbers of KV blocks in use while the request runs, each as often as it changes."""
    seen = [engine.kv_blocks_used()]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(engine.usage, *request)
        while not (running.done() and engine.is_idle()):
            used = engine.kv_blocks_used()
            if used != seen[-1]:
                seen.append(used)
            time.sleep(0.005)
        running.result()
    final = engine.kv_blocks_used()
    return seen if final == seen[-1] else [*seen, final]


@pytest.mark.parametrize(
    ("start", "num_prompt_tokens", "max_tokens"),
    [(10_000, 120, 12), (12_000, 300, 4), (14_000, 628, 16), (16_000, 1100, 4)],
    ids=["into a second block", "several chunks", "sliding", "twice the window"],
)
def test_blocks_in_use_grow_and_slide_alike(
    engines: list[Engine], start: int, num_prompt_tokens: int, max_tokens: int
) -> None:
    for attempt in range(NUM_ATTEMPTS):
        first = start + attempt * 300
        prompt = [first + i for i in range(num_prompt_tokens)]
        request = completion(prompt, max_tokens=max_tokens)
        real, simulated = (ladder(engine, request) for engine in engines)
        print(f"KV blocks in use: {real}, simulated {simulated}")
        if real == simulated:
            break
    assert real == simulated
    assert len(real) > 2


def held_blocks(engine: Engine, requests: Sequence[tuple[str, dict[str, Any]]]) -> list[int]:
    """KV blocks in use after each of the requests has its first tokens, while all go on."""
    used = []
    with ExitStack() as stack:
        for path, body in requests:
            answer = stack.enter_context(
                engine.client.stream("POST", path, json={**body, "stream": True})
            )
            assert answer.status_code == 200
            lines = answer.iter_lines()
            # Of the step that gave the second token, at least, the engine has told.
            for _ in range(3):
                next(line for line in lines if line.startswith("data: {"))
            used.append(engine.kv_blocks_used())
            stack.callback(lambda rest=lines: list(rest))
    wait_until(engine.is_idle, timeout_s=60, what="idle")
    return [*used, engine.kv_blocks_used()]


def test_running_requests_share_blocks_alike(engines: list[Engine]) -> None:
    """The second prompt begins like the first, which is still running; the third has a salt."""
    prompt = [18_000 + i for i in range(300)]
    requests = [
        completion(prompt, max_tokens=60),
        completion([*prompt[:290], 5, 6, 7], max_tokens=45),
        completion(prompt, max_tokens=30, cache_salt="apart"),
        completion([30_000 + i for i in range(40)], max_tokens=12),
    ]
    before = [engine.counters() for engine in engines]
    real, simulated = (held_blocks(engine, requests) for engine in engines)
    print(f"KV blocks in use: {real}")
    assert real == simulated
    counted = [
        {name: after[name] - earlier[name] for name in COUNTERS}
        for after, earlier in zip((e.counters() for e in engines), before, strict=True)
    ]
    assert counted[0] == counted[1]
    assert real[1] - real[0] < real[0]
