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
    TENANT,
    EngineRequest,
    Stack,
    error_of,
    running_stack,
    until,
)

TARGETS = "/galerne/metric-targets"
STREAM = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": True}


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


def events(stack: Stack, slo: str, result: str) -> float | None:
    return value(stack, "slo_events_total", model=MODEL, slo=slo, result=result)


async def test_late_tokens_are_bad_events(stack: Stack) -> None:
    """By the SLO of these tests: half a second for the first, a quarter between two."""

    async def hesitates(request: EngineRequest) -> None:
        await request.start(200, EVENT_STREAM)
        for pause_s in (0.6, 0.0, 0.3, 0.0):
            await asyncio.sleep(pause_s)
            await request.write(b"data: 1\n\n")
        await request.finish()

    stack.engine.script = hesitates
    async with stack.post(CHAT, STREAM) as response:
        await response.read()
    assert events(stack, "ttft", "bad") == 1
    assert events(stack, "ttft", "good") == 0
    assert (events(stack, "itl", "bad") or 0) >= 1
    assert value(stack, "slo_objective_ratio", model=MODEL) == 0.99


async def test_a_stream_that_is_refused_is_a_late_one(stack: Stack) -> None:
    async def one_chunk(request: EngineRequest) -> None:
        await request.start(200, EVENT_STREAM)
        await request.write(b"data: 1\n\n")
        await asyncio.Event().wait()

    stack.engine.script = one_chunk
    async with stack.post(CHAT, STREAM) as first:
        await first.content.readany()
        async with stack.post(CHAT, STREAM) as refused:
            assert await error_of(refused) == (429, "engine_overloaded")
        async with stack.post(CHAT, {**STREAM, "n": 10_000}) as wrong:
            assert wrong.status == 400
    await until(lambda: len(stack.log) == 3)
    assert events(stack, "ttft", "bad") == 1
    assert events(stack, "ttft", "good") == 1


async def test_a_client_that_leaves_in_time_is_no_event(stack: Stack) -> None:
    async def silent(request: EngineRequest) -> None:
        await request.start(200, EVENT_STREAM)
        await asyncio.Event().wait()

    stack.engine.script = silent
    async with stack.post(CHAT, STREAM) as response:
        assert response.status == 200
    await until(lambda: len(stack.log) == 1)
    assert events(stack, "ttft", "bad") == events(stack, "ttft", "good") == 0


async def test_a_stream_that_breaks_off_is_a_bad_one(stack: Stack) -> None:
    """Our own error event is no token."""

    async def breaks(request: EngineRequest) -> None:
        await request.start(200, EVENT_STREAM)
        await request.write(b"data: 1\n\n")  # and returns: the server then cuts the connection

    stack.engine.script = breaks
    async with stack.post(CHAT, STREAM) as response:
        assert b"error" in await response.read()
    await until(lambda: len(stack.log) == 1)
    assert events(stack, "ttft", "good") == 1
    assert events(stack, "itl", "bad") == 1
    assert events(stack, "itl", "good") == 0


async def test_requests_are_counted_by_tenant_and_class(stack: Stack) -> None:
    async with stack.post() as response:
        await response.read()
    labels = {"model": MODEL, "tenant": TENANT, "tenant_class": "gold"}
    assert value(stack, "tenant_requests_total", **labels) == 1
    assert value(stack, "arrived_requests_total", model=MODEL) == 1


@pytest.mark.parametrize("token", [None, "wrong", "{key}", METRICS_TOKEN])
async def test_targets_take_the_metrics_token(stack: Stack, token: str | None) -> None:
    presented = token and token.format(key=stack.key)
    headers = {"authorization": f"Bearer {presented}"} if presented else {}
    async with stack.get(TARGETS, headers=headers) as response:
        if token == METRICS_TOKEN:
            assert (response.status, await response.json()) == (200, [])
        else:
            assert await error_of(response) == (401, "metrics_token_required")


@pytest.mark.parametrize(("retry_count", "wanted"), [(None, 1), ("0", 1), ("1", 0), ("2", 0)])
async def test_what_an_sdk_sends_again_is_not_wanted_once_more(
    stack: Stack, retry_count: str | None, wanted: int
) -> None:
    headers = {} if retry_count is None else {"x-stainless-retry-count": retry_count}
    async with stack.post(headers=headers) as response:
        assert response.status == 200
    assert value(stack, "sent_requests_total", model=MODEL) == 1
    assert value(stack, "wanted_requests_total", model=MODEL) == wanted
