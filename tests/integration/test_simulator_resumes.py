"""A simulated answer that is cut anywhere goes on in another engine, byte for byte."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from journaled_call import JournaledCall
from prometheus_client import CollectorRegistry

from serving.core.types import ModelId
from serving.settings.engine import EngineSettings
from serving.settings.model import ModelSettings
from serving.settings.simulator import SimulatorSettings, TimingSettings
from serving.simulator.launch import SimulatedEngine, build_engine

MODEL = "sim"
CHAT, COMPLETIONS, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/messages"
LIMIT = {"model": MODEL, "stream": True, "max_tokens": 12}
STORY = [{"role": "user", "content": "Tell me of the sea."}]
USAGE = {"include_usage": True, "continuous_usage_stats": True}


def new_engine() -> SimulatedEngine:
    settings = ModelSettings(
        simulator=SimulatorSettings(
            timing=TimingSettings(step_s=0.0, overhead_s=0.0), kv_blocks=400, answer_tokens=40
        ),
        engine=EngineSettings(max_model_len=512),
    )
    engine = build_engine(
        ModelId(MODEL), settings, None, registry=CollectorRegistry(), clock=time.monotonic
    )
    engine.loop.start()
    return engine


@pytest.fixture
async def engines() -> AsyncIterator[list[SimulatedEngine]]:
    running = [new_engine(), new_engine()]
    yield running
    for engine in running:
        engine.shutdown()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": STORY}),
        (CHAT, {"messages": STORY, "ignore_eos": True, "stream_options": USAGE}),
        (CHAT, {"messages": STORY, "seed": 3, "temperature": 1, "stop": ["the", "sea and"]}),
        (COMPLETIONS, {"prompt": "A story:", "stream_options": USAGE, "min_tokens": 11}),
        (COMPLETIONS, {"prompt": "A story:", "echo": True, "return_token_ids": True}),
        (MESSAGES, {"messages": STORY}),
    ],
)
async def test_cut_anywhere(engines: list[SimulatedEngine], path: str, body: Any) -> None:
    first, second = engines
    body = {**LIMIT, **body}
    whole = JournaledCall(path, {**body, "cache_salt": "whole"})
    await whole.run(first.app)
    assert whole.is_whole
    assert whole.reader.can_resume
    for cut in range(whole.num_frames):
        call = JournaledCall(path, {**body, "cache_salt": f"cut {cut}"})
        await call.run(first.app, max_frames=cut)
        assert not call.is_whole
        await call.run(second.app)
        assert call.undated == whole.undated, cut
        assert call.is_whole


async def test_a_continued_answer_can_be_continued(engines: list[SimulatedEngine]) -> None:
    body = {**LIMIT, "messages": STORY, "ignore_eos": True}
    whole = JournaledCall(CHAT, body)
    await whole.run(engines[0].app)
    call = JournaledCall(CHAT, body)
    for number in range(whole.num_frames):
        await call.run(engines[number % 2].app, max_frames=2)
    await call.run(engines[0].app)
    assert call.undated == whole.undated


async def test_an_engine_that_dies_leaves_the_end_to_another(
    engines: list[SimulatedEngine],
) -> None:
    body = {**LIMIT, "messages": STORY, "ignore_eos": True}
    whole = JournaledCall(CHAT, body)
    await whole.run(engines[0].app)
    call = JournaledCall(CHAT, body)
    await call.run(engines[0].app, max_frames=3)
    engines[1].shutdown()
    await call.run(engines[1].app)
    assert not call.is_whole
    await call.run(engines[0].app)
    assert call.undated == whole.undated


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": STORY, "n": 2}),
        (COMPLETIONS, {"prompt": ["one", "two"]}),
    ],
)
async def test_several_answers_are_not_continued(
    engines: list[SimulatedEngine], path: str, body: Any
) -> None:
    call = JournaledCall(path, {**LIMIT, **body})
    await call.run(engines[0].app)
    assert call.is_whole
    assert not call.reader.can_resume
