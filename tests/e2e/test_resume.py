"""Streams outlive the replica that began them, and no client can tell."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from e2e.harness import Platform, wait_until

MODEL = "sim"
NUM_REPLICAS = 3
SETTINGS = (
    "gateway.replicas=2",
    f"models.{MODEL}.replicas={NUM_REPLICAS}",
    f"models.{MODEL}.simulator.start_s=0",
    f"models.{MODEL}.simulator.timing.step_s=0.02",
)
CHAT, COMPLETIONS, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/messages"
CREATED = re.compile(rb'"created":\d+')
NUM_TOKENS = 120


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    running = Platform.start(tmp_path_factory.mktemp("resume") / "state", "sim", SETTINGS)
    try:
        running.note_processes()
        yield running
    finally:
        running.stop()


def bodies() -> list[tuple[str, dict[str, Any]]]:
    """Requests of every kind that can be continued."""
    long = {"model": MODEL, "stream": True, "max_tokens": NUM_TOKENS, "ignore_eos": True}
    usage = {"stream_options": {"include_usage": True}}
    continuous = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}

    def told(number: int) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"Tell me story {number} about the sea."}]

    kinds: list[tuple[str, dict[str, Any]]] = []
    for number in range(6):
        kinds += [
            (CHAT, {**long, "messages": told(number)}),
            (CHAT, {**long, "messages": told(number), **usage, "seed": 7, "temperature": 0.9}),
            (CHAT, {**long, "messages": told(number), "stop": ["never to be found"]}),
            (COMPLETIONS, {**long, "prompt": f"Story {number}.", **continuous}),
            (MESSAGES, {**long, "messages": told(number)}),
        ]
    return kinds


async def stream(fleet: Platform, session: aiohttp.ClientSession, number: int, run: str) -> bytes:
    path, body = bodies()[number]
    # Each run finds the prefix caches as empty of its prompts as the other.
    body = {**body, "cache_salt": run}
    headers = {**fleet.authorization, "x-request-id": f"resume-{number}"}
    async with session.post(fleet.endpoint + path, json=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        return CREATED.sub(b'"created":0', await answer.read())


async def all_streams(fleet: Platform, run: str) -> list[bytes]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        numbers = range(len(bodies()))
        return await asyncio.gather(*(stream(fleet, session, n, run) for n in numbers))


async def test_killed_and_replaced_replicas_leave_no_trace_in_streams(fleet: Platform) -> None:
    undisturbed = await all_streams(fleet, "one")
    disturbed = asyncio.create_task(all_streams(fleet, "two"))
    await asyncio.to_thread(wait_until, lambda: num_running(fleet) == len(bodies()), timeout_s=20)
    for _ in range(2):
        os.kill(busiest(fleet), signal.SIGKILL)
        await asyncio.sleep(10 * 0.02)
    assert await disturbed == undisturbed
    rows = [row for row in fleet.access_log() if row["request_id"].startswith("resume-")]
    num_resumes = sum(row["resumes"] for row in rows)
    print(f"{num_resumes} resumes among {len(bodies())} streams")
    assert num_resumes
    wait_until(lambda: num_running(fleet) == 0, timeout_s=10)


def busiest(fleet: Platform) -> int:
    """The process of the replica that holds the most; one that was just killed tells nothing."""
    telling = [replica for replica in fleet.engines(MODEL) if replica["state"]]
    return int(max(telling, key=lambda replica: replica["state"]["in_flight"])["pid"])


def num_running(fleet: Platform) -> int:
    states = [replica["state"] for replica in fleet.engines(MODEL)]
    return sum(state["in_flight"] for state in states if state)


async def test_what_cannot_be_continued_ends_with_an_error(fleet: Platform) -> None:
    wait_until(lambda: len(fleet.engines(MODEL)) == NUM_REPLICAS, timeout_s=60)
    message = {"role": "user", "content": "Tell me about the sea."}
    body = {
        "model": MODEL, "messages": [message], "stream": True, "n": 2, "max_tokens": NUM_TOKENS,
        "ignore_eos": True,
    }  # fmt: skip
    async with (
        aiohttp.ClientSession(headers=fleet.authorization) as session,
        session.post(fleet.endpoint + CHAT, json=body) as answer,
    ):
        await answer.content.readline()
        for victim in fleet.engines(MODEL):
            if victim["state"] and victim["state"]["in_flight"]:
                os.kill(victim["pid"], signal.SIGKILL)
        text = (await answer.read()).decode()
    assert '"code": "engine_failed"' in text or '"code":"engine_failed"' in text
