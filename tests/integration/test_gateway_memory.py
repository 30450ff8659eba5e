"""A request's body is in memory as long as its tenant is charged for it, and no longer.

The garbage collector is off: what waits for it is as good as held, under load for minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from test_gateway_requests import held_bytes
from test_gateway_stack import (
    EVENT_STREAM,
    GATEWAY,
    JSON,
    LIMITS,
    MODEL,
    EngineRequest,
    Script,
    Stack,
    answer_ok,
    connection,
    running_stack,
    until,
)

from serving.core.types import TenantId
from serving.core.wire import REFUSED, Refusal
from serving.gateway import relay as relay_module
from serving.protocol.journal import Output, current_journal
from serving.tenancy.cache_salt import CacheSalts

BODY_BYTES = 1_000_000
NUM_REQUESTS = 4
LET_GO_WITHIN_S = 1.0
"""Half of the time for which the rest of a refused upload is swallowed."""
SETTINGS = GATEWAY.model_copy(update={"queue_timeout_s": 0.05, "engine_silence_timeout_s": 0.2})
EVENT = b"data: 1\n\n"


@contextlib.contextmanager
def bytes_taken() -> Iterator[Callable[[], int]]:
    """A function that tells how much more memory is in use now, without what could be collected."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        gc.enable()


def body_of(**fields: object) -> bytes:
    document = {"model": MODEL, "messages": [], "x": "x" * BODY_BYTES, **fields}
    return json.dumps(document).encode()


async def read(stack: Stack, body: bytes) -> None:
    with contextlib.suppress(aiohttp.ClientPayloadError):
        async with stack.post(body=body) as response:
            await response.read()


async def leave(stack: Stack, body: bytes) -> None:
    async with connection(stack) as (_, writer):
        num_before = num_seen(stack)
        writer.write(stack.raw_post(body))
        await until(lambda: num_seen(stack) > num_before)


def num_seen(stack: Stack) -> int:
    return sum(len(engine.requests) for engine in stack.engines)


def respond(status: int) -> Script:
    async def answer(request: EngineRequest) -> None:
        await request.respond(status, b"{}", JSON)

    return answer


async def refuse(request: EngineRequest) -> None:
    """Another replica may take it."""
    await request.respond(503, b"{}", (REFUSED, Refusal.DRAINING.encode()))


async def break_off(request: EngineRequest) -> None:
    await request.start(200, EVENT_STREAM)
    await request.write(EVENT)


async def hang(_request: EngineRequest) -> None:
    await asyncio.Event().wait()


async def continue_and_break_off(request: EngineRequest) -> None:
    """One more event of an answer that another replica can go on with."""
    journal = current_journal.get()
    assert journal is not None
    journal.begin(can_resume=True)
    await request.start(200, EVENT_STREAM)
    for _ in journal.replay():
        await request.write(EVENT)
    journal.note(Output([1], "1"))
    await request.write(EVENT)


async def continue_to_the_end(request: EngineRequest) -> None:
    await continue_and_break_off(request)
    await request.finish()


def without_body(script: Script) -> Script:
    """The engine keeps no body, which is in this process as well."""

    async def answer(request: EngineRequest) -> None:
        request.body = b""
        await script(request)

    return answer


OK = body_of()
STREAM = body_of(stream=True)


@pytest.mark.parametrize(
    ("body", "scripts", "code"),
    [
        pytest.param(OK, [answer_ok], None, id="answered"),
        pytest.param(body_of(model=5), [answer_ok], "invalid_type", id="no-model"),
        pytest.param(OK + b"}", [answer_ok], "invalid_json", id="no-json"),
        pytest.param(OK[:-2] + b'\xff"}', [answer_ok], "invalid_utf8", id="no-utf8"),
        pytest.param(body_of(model="nope"), [answer_ok], "model_not_found", id="unknown-model"),
        pytest.param(body_of(cache_salt=5), [answer_ok], "invalid_type", id="bad-salt"),
        pytest.param(body_of(messages=[5]), [answer_ok], "invalid_type", id="bad-message"),
        pytest.param(OK, [respond(400)], "invalid_request", id="refused-by-engine"),
        pytest.param(OK, [respond(500)], "engine_error", id="failed-by-engine"),
        pytest.param(OK, [hang], "engine_timeout", id="silent-engine"),
        pytest.param(OK, [hang], "client_gone", id="client-gone"),
        pytest.param(OK, [refuse], "model_not_ready", id="refused-by-all-replicas"),
        pytest.param(OK, [refuse, answer_ok], None, id="answered-by-another"),
        pytest.param(OK, [break_off], "engine_failed", id="broken"),
        pytest.param(STREAM, [continue_and_break_off, continue_to_the_end], None, id="resumed"),
        pytest.param(STREAM, [continue_and_break_off], "engine_failed", id="resumed-in-vain"),
        pytest.param(STREAM, [continue_and_break_off, refuse], "engine_failed", id="not-resumed"),
    ],
)
async def test_nothing_stays_of_a_request_that_has_ended(
    tmp_path: Path,
    body: bytes,
    scripts: list[Script],
    code: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay_module, "_STALL_CHECK_S", 0.05)
    ask = leave if code == "client_gone" else read
    async with running_stack(tmp_path, num_engines=2, settings=SETTINGS) as stack:
        num_asked = 0

        async def take_turns(request: EngineRequest) -> None:
            nonlocal num_asked
            num_asked += 1
            await scripts[(num_asked - 1) % len(scripts)](request)

        for engine in stack.engines:
            engine.script = without_body(take_turns)
        await ask(stack, body)
        with bytes_taken() as taken:
            for _ in range(NUM_REQUESTS):
                await ask(stack, body)
            await until(lambda: held_bytes(stack) == 0)
            await until(lambda: taken() < BODY_BYTES, within_s=LET_GO_WITHIN_S)
        await until(lambda: len(stack.log) == 1 + NUM_REQUESTS)
        assert {record["code"] for record in stack.log} == {code}


async def test_a_stream_that_goes_on_elsewhere_takes_no_second_body(tmp_path: Path) -> None:
    async with running_stack(tmp_path, num_engines=2) as stack:
        can_break, can_end = asyncio.Event(), asyncio.Event()

        async def answer(request: EngineRequest) -> None:
            await continue_and_break_off(request)
            if num_seen(stack) == 1:
                await can_break.wait()
            else:
                await can_end.wait()
                await request.finish()

        for engine in stack.engines:
            engine.script = without_body(answer)
        with bytes_taken() as taken:
            async with stack.post(body=STREAM) as response:
                assert await response.content.readexactly(len(EVENT)) == EVENT
                begun_bytes = taken()
                can_break.set()
                assert await response.content.readexactly(len(EVENT)) == EVENT
                await until(lambda: taken() < begun_bytes + BODY_BYTES / 2, within_s=1.0)
                can_end.set()
                await response.read()


async def test_nothing_stays_of_a_request_that_has_waited_in_vain(tmp_path: Path) -> None:
    async with running_stack(tmp_path, max_in_flight=1, settings=SETTINGS) as stack:
        can_go = asyncio.Event()

        async def answer(request: EngineRequest) -> None:
            await can_go.wait()
            await request.respond(200, b"{}", JSON)

        stack.engine.script = answer
        running = asyncio.create_task(read(stack, b'{"model": "demo"}'))
        await until(lambda: len(stack.engine.requests) == 1)
        await read(stack, OK)
        with bytes_taken() as taken:
            for _ in range(NUM_REQUESTS):
                await read(stack, OK)
            await until(lambda: taken() < BODY_BYTES, within_s=LET_GO_WITHIN_S)
        can_go.set()
        await running
        await until(lambda: len(stack.log) == 6)
        assert [record["code"] for record in stack.log[:-1]] == ["engine_overloaded"] * 5


class BrokenSalts(CacheSalts):
    def of(self, tenant: TenantId, client_salt: object) -> str:
        raise KeyError(tenant)


async def test_nothing_stays_of_a_request_that_fails_by_a_fault_of_ours(tmp_path: Path) -> None:
    """Nothing but the traceback in the log."""
    logged: list[str] = []

    def keep_text(record: logging.LogRecord) -> bool:
        logged.append(logging.Formatter().format(record))
        return False  # pytest would keep the record, and so the frames

    logger = logging.getLogger("galerne.gateway")
    logger.addFilter(keep_text)
    try:
        async with running_stack(tmp_path, salts=BrokenSalts(b"", {})) as stack:
            await read(stack, OK)
            with bytes_taken() as taken:
                for _ in range(NUM_REQUESTS):
                    await read(stack, OK)
                await until(lambda: taken() < BODY_BYTES, within_s=LET_GO_WITHIN_S)
    finally:
        logger.removeFilter(keep_text)
    assert [record["code"] for record in stack.log] == ["internal_error"] * 5
    assert all("Traceback" in text and "in of\n    raise KeyError" in text for text in logged)


async def test_nothing_stays_of_a_refused_upload_while_its_rest_is_swallowed(
    tmp_path: Path,
) -> None:
    limits = LIMITS.model_copy(
        update={"max_body_bytes": 2 * BODY_BYTES, "max_held_bytes": 4 * BODY_BYTES}
    )
    settings = GATEWAY.model_copy(update={"limits": limits})
    head = f"Content-Length: {2 * BODY_BYTES}"
    async with running_stack(tmp_path, settings=settings) as stack:
        with bytes_taken() as taken:
            async with contextlib.AsyncExitStack() as uploads:
                for _ in range(2):
                    _, writer = await uploads.enter_async_context(connection(stack))
                    writer.write(stack.raw_head(head) + b" " * (BODY_BYTES * 3 // 2))
                await until(lambda: (held_bytes(stack) or 0) > BODY_BYTES)
                assert taken() > BODY_BYTES
                await until(lambda: held_bytes(stack) == 0)
                await until(lambda: taken() < BODY_BYTES, within_s=LET_GO_WITHIN_S)
                assert not stack.log  # both are being swallowed
        await until(lambda: len(stack.log) == 2)
        assert {record["code"] for record in stack.log} == {"gateway_overloaded", "upload_timeout"}
