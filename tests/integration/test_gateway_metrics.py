"""What a gateway counts of real requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from test_gateway_stack import (
    CHAT,
    EVENT_STREAM,
    GATEWAY,
    METRICS_TOKEN,
    MODEL,
    EngineRequest,
    Stack,
    error_of,
    running_stack,
    until,
)

TARGETS = "/galerne/metric-targets"


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    settings = GATEWAY.model_copy(update={"queue_timeout_s": 0.2})
    async with running_stack(tmp_path, max_in_flight=1, settings=settings) as running:
        yield running


def value(stack: Stack, name: str, **labels: str) -> float | None:
    return stack.registry.get_sample_value(f"galerne_gateway_{name}", labels)


def count(stack: Stack, status: int, code: str = "", *, model: str = MODEL) -> float | None:
    return value(stack, "requests_total", model=model, status=str(status), code=code)


async def test_successes_and_refusals_are_told_apart(stack: Stack) -> None:
    for _ in range(2):
        async with stack.post() as response:
            assert response.status == 200
            body = await response.read()
    async with stack.post(headers={"authorization": "Bearer wrong"}) as response:
        assert response.status == 401
    await until(lambda: len(stack.log) == 3)

    assert count(stack, 200) == 2
    assert count(stack, 401, "invalid_api_key", model="") == 1
    assert value(stack, "sent_bytes_total", model=MODEL) == 2 * len(body)
    assert value(stack, "time_to_first_byte_seconds_count", model=MODEL) == 2
    assert value(stack, "queue_wait_seconds_count", model=MODEL) == 2
    assert value(stack, "reading_seconds_count", model=MODEL) == 2
    assert value(stack, "picking_seconds_count", model=MODEL) == 2
    assert (value(stack, "prompt_tokens_total", model=MODEL) or 0) > 0
    assert value(stack, "predicted_hit_tokens_total", model=MODEL) == 0


async def test_unknown_models_make_no_labels(stack: Stack) -> None:
    """A client must not be able to fill the memory of Prometheus."""
    for number in range(3):
        async with stack.post(CHAT, {"model": f"invented-{number}"}) as response:
            assert response.status == 404
    await until(lambda: len(stack.log) == 3)
    assert count(stack, 404, "model_not_found", model="") == 3


async def test_load_is_shown_while_it_lasts(stack: Stack) -> None:
    async def one_chunk(request: EngineRequest) -> None:
        await request.start(200, EVENT_STREAM)
        await request.write(b"data: 1\n\n")
        await asyncio.Event().wait()

    stack.engine.script = one_chunk
    async with stack.post() as first:
        await first.content.readany()
        assert value(stack, "in_flight_requests", model=MODEL) == 1
        async with stack.post() as refused:
            assert await error_of(refused) == (429, "engine_overloaded")
    await stack.idle()
    assert value(stack, "in_flight_requests", model=MODEL) == 0


@pytest.mark.parametrize("token", [None, "wrong", "{key}", METRICS_TOKEN])
async def test_targets_take_the_metrics_token(stack: Stack, token: str | None) -> None:
    presented = token and token.format(key=stack.key)
    headers = {"authorization": f"Bearer {presented}"} if presented else {}
    async with stack.get(TARGETS, headers=headers) as response:
        if token == METRICS_TOKEN:
            assert (response.status, await response.json()) == (200, [])
        else:
            assert await error_of(response) == (401, "metrics_token_required")
