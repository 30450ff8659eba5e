"""What a tenant is accounted for is what its answers report, on a simulated engine."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from journaled_call import JournaledCall
from prometheus_client import CollectorRegistry

from serving.core.types import ModelId
from serving.engine.guard import EngineGuard
from serving.protocol.journal import Journal
from serving.protocol.usage import RequestUsage, TokenCounts, current_usage
from serving.settings.engine import EngineSettings
from serving.settings.model import ModelSettings
from serving.settings.simulator import SimulatorSettings, TimingSettings
from serving.simulator.launch import SimulatedEngine, build_engine

MODEL = "sim"
CHAT, COMPLETIONS, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/messages"
LONG = "Tell me of the sea, and of the ships on it, and of all the rivers that end there. " * 3
STORY = [{"role": "user", "content": LONG}]
LIMIT = {"model": MODEL, "max_tokens": 12}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


def new_engine(*, step_s: float = 0.0) -> SimulatedEngine:
    settings = ModelSettings(
        simulator=SimulatorSettings(
            timing=TimingSettings(step_s=step_s, overhead_s=0.0), kv_blocks=400, answer_tokens=40
        ),
        engine=EngineSettings(max_model_len=512),
    )
    engine = build_engine(
        ModelId(MODEL), settings, None, registry=CollectorRegistry(), clock=time.monotonic
    )
    engine.loop.start()
    return engine


@pytest.fixture
async def engine() -> AsyncIterator[SimulatedEngine]:
    running = new_engine()
    yield running
    running.shutdown()


class Asked:
    """One request through the guard of a replica."""

    def __init__(self, engine: SimulatedEngine, path: str, body: dict[str, Any]) -> None:
        self.told: list[tuple[str, TokenCounts]] = []
        self.answer = b""
        self.has_begun = asyncio.Event()
        self.leave = asyncio.Event()
        guard = EngineGuard(
            engine.app, token="t", max_in_flight=1, version="v", state=dict, stream=_no_stream
        )
        guard.on_usage = lambda tenant, counts: self.told.append((tenant, counts))
        headers = [
            (b"x-galerne-token", b"t"),
            (b"x-galerne-tenant", b"ann"),
            (b"content-type", b"application/json"),
        ]
        self._unread = [json.dumps(body).encode()]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
        self.task = asyncio.create_task(guard(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._unread:
            return {"type": "http.request", "body": self._unread.pop(), "more_body": False}
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.answer += message.get("body", b"")
        if self.answer:
            self.has_begun.set()

    async def counts(self) -> TokenCounts:
        """Once the request has ended."""
        async with asyncio.timeout(30):
            await self.task
        ((tenant, counts),) = self.told
        assert tenant == "ann"
        return counts


async def _no_stream(_receive: Any, _send: Any) -> None:
    raise AssertionError("nobody follows this replica")


def reported(answer: bytes) -> tuple[int, int, int]:
    """Prompt, cached and output tokens of an OpenAI answer, streamed or whole."""
    if answer.startswith(b"data:"):
        *_, answer, _done, _end = answer.split(b"\n\n")
    usage = json.loads(answer.removeprefix(b"data:"))["usage"]
    cached = (usage["prompt_tokens_details"] or {}).get("cached_tokens") or 0
    return usage["prompt_tokens"], cached, usage["completion_tokens"]


@pytest.mark.parametrize("how", [{}, USAGE], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": STORY}),
        (CHAT, {"messages": STORY, "stop": ["the", "sea"]}),
        (COMPLETIONS, {"prompt": LONG}),
    ],
)
async def test_it_is_what_the_answer_reports(
    engine: SimulatedEngine, path: str, body: dict[str, Any], how: dict[str, Any]
) -> None:
    for is_again in (False, True):
        asked = Asked(engine, path, {**LIMIT, **body, **how})
        counts = await asked.counts()
        assert tuple(counts) == reported(asked.answer)
        assert bool(counts.cached) is is_again
        assert counts.output


@pytest.mark.parametrize("how", [{}, USAGE], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": STORY, "n": 3}),
        (COMPLETIONS, {"prompt": [LONG, "One word:"], "n": 2}),
    ],
)
async def test_several_answers_and_prompts(
    engine: SimulatedEngine, path: str, body: dict[str, Any], how: dict[str, Any]
) -> None:
    """Usage reports what the cache did for one of the answers; here each prompt counts once."""
    asked = Asked(engine, path, {**LIMIT, **body, **how, "ignore_eos": True})
    counts = await asked.counts()
    prompt, _, output = reported(asked.answer)
    assert counts == TokenCounts(prompt, 0, output)
    assert counts.output == 12 * body["n"] * (2 if path == COMPLETIONS else 1)


async def test_anthropics_dialect(engine: SimulatedEngine) -> None:
    """There the parts of a prompt that the cache has to do with are told apart."""
    for _ in range(2):
        asked = Asked(engine, MESSAGES, {**LIMIT, "messages": STORY})
        counts = await asked.counts()
        usage = json.loads(asked.answer)["usage"]
        cached, created = usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]
        prompt = usage["input_tokens"] + cached + created
        assert counts == (prompt, cached, usage["output_tokens"])
    assert cached


@pytest.mark.parametrize("how", [{}, {"stream": True}], ids=["whole", "stream"])
async def test_a_client_that_leaves_is_accounted_for_what_was_generated(
    how: dict[str, Any],
) -> None:
    engine = new_engine(step_s=0.01)
    asked = Asked(engine, CHAT, {**LIMIT, "messages": STORY, "ignore_eos": True, **how})
    async with asyncio.timeout(30):
        while engine.load().output_tokens < 3:  # noqa: ASYNC110 (the engine has no event)
            await asyncio.sleep(0.005)
    asked.leave.set()
    counts = await asked.counts()
    engine.shutdown()
    assert counts.prompt > 0
    assert 3 <= counts.output < 12


@pytest.mark.parametrize(
    ("path", "body"),
    [("/tokenize", {"prompt": LONG}), (CHAT, {"messages": STORY, "max_tokens": 0})],
)
async def test_what_generates_nothing_counts_nothing(
    engine: SimulatedEngine, path: str, body: dict[str, Any]
) -> None:
    assert await Asked(engine, path, {"model": MODEL, **body}).counts() == TokenCounts()


async def test_what_is_continued_counts_what_is_new() -> None:
    """Wherever it was cut: prompt and tokens so far were counted where they were computed."""
    engines = [new_engine(), new_engine()]
    body = {**LIMIT, "messages": STORY, "stream": True, "ignore_eos": True}
    whole = JournaledCall(CHAT, body)
    await whole.run(engines[0].app)
    for cut in range(whole.num_frames):
        call = JournaledCall(CHAT, {**body, "cache_salt": str(cut)})
        await call.run(engines[0].app, max_frames=cut)
        num_told = len(Journal(bytes(call.reader.records)).token_ids)
        usage = RequestUsage()
        token = current_usage.set(usage)
        await call.run(engines[1].app)
        current_usage.reset(token)
        counts = usage.settle()
        assert counts.output == 12 - num_told, cut
        assert bool(counts.prompt) is not bool(num_told), cut
    for engine in engines:
        engine.shutdown()
