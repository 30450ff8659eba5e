"""The load generator's loop against servers that behave, and servers that do not."""

from __future__ import annotations

import asyncio
import json
import time
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from loadtest.generator.connection import Connections
from loadtest.generator.dialects import WIRES
from loadtest.generator.sender import Limits, PromptText, Sender
from loadtest.generator.target import Composer, Target
from loadtest.generator.wire import Part, Wire, Wording
from loadtest.records import Record
from loadtest.workload.request import Dialect, Session, Turn
from tests.scripted_server import Call, Script, scripted_server

USAGE = (
    b'{"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}'
)
TOKEN = b'data: {"choices": [{"delta": {"content": "ab "}}]}\n\n'
LAST = b'data: {"choices": [], "usage": ' + USAGE + b"}\n\ndata: [DONE]\n\n"
WHOLE = b'{"choices": [{"message": {"content": "abc"}}], "usage": ' + USAGE + b"}"


async def stream(call: Call) -> None:
    await call.begin_stream()
    for _ in range(3):
        await call.chunk(TOKEN)
    await call.chunk(LAST)
    await call.end_stream()


def session(index: int = 0, at_s: float = 0.0, **fields: object) -> Session:
    return Session(index, at_s, "t", (Turn(9, 3, (index,)),), **fields)  # type: ignore[arg-type]


def text(turn: Turn) -> bytes:
    return b"hello"


async def send(
    url: str,
    sessions: Iterable[Session],
    *,
    is_stream: bool = True,
    ignore_eos: bool = True,
    limits: Limits | None = None,
    wire: Wire = WIRES["chat"],
    prompt: PromptText = text,
) -> list[Record]:
    """The records of these sessions, as they ended."""
    wording = Wording("m", is_stream, ignore_eos, 0.0)
    sender = Sender(
        iter(sessions),
        {"t": Composer.make(Target.parse(url), wire, wording, "secret")},
        Connections(url),
        prompt=prompt,
        limits=limits or Limits(timeout_s=5.0),
    )
    await asyncio.wait_for(sender.run(time.perf_counter()), 20)
    return sender.take_records()


async def outcome(script: Script, **options: bool) -> Record:
    """The record of one request to a server with this script."""
    async with scripted_server(script) as server:
        (record,) = await send(server.url, [session()], **options)
    return record


async def test_a_stream_is_recorded_as_it_went() -> None:
    record = await outcome(stream)

    assert (record.error, record.status, record.request_id) == (None, 200, "req-1")
    assert (record.prompt_tokens, record.cached_tokens, record.output_tokens) == (9, 4, 3)
    assert record.ttft_s is not None
    assert record.latency_s is not None
    assert 0 < record.ttft_s <= record.latency_s
    assert len(array("f", record.itl_s)) == 2


@pytest.mark.parametrize(
    ("dialect", "ignore_eos", "is_exact"),
    [("chat", True, True), ("chat", False, False), ("messages", True, False)],
)
async def test_a_record_says_how_long_its_answer_was_to_be(
    dialect: Dialect, ignore_eos: bool, is_exact: bool
) -> None:
    async with scripted_server(stream) as server:
        asked = [session()]
        (record,) = await send(server.url, asked, wire=WIRES[dialect], ignore_eos=ignore_eos)

    assert (record.planned_output_tokens, record.ignore_eos) == (3, is_exact)


async def test_an_answer_in_one_piece_has_no_ttft() -> None:
    record = await outcome(lambda call: call.answer(200, WHOLE), is_stream=False)

    assert (record.error, record.status, record.ttft_s) == (None, 200, None)
    assert (record.prompt_tokens, record.cached_tokens, record.output_tokens) == (9, 4, 3)
    assert not record.is_stream


async def truncated(call: Call) -> None:
    await call.begin_stream()
    await call.chunk(TOKEN)
    await call.end_stream()


async def cut(call: Call) -> None:
    await call.begin_stream()
    await call.chunk(TOKEN)
    call.reset()


async def reset_behind_the_end(call: Call) -> None:
    await call.begin_stream()
    await call.chunk(TOKEN)
    await call.chunk(LAST)
    call.reset()


async def reset_at_once(call: Call) -> None:
    call.reset()


async def no_http(call: Call) -> None:
    await call.send(b"SSH-2.0-OpenSSH_9.6\r\n")


async def bad_event(call: Call) -> None:
    await call.begin_stream()
    await call.chunk(TOKEN + b"data: {oops\n\n")


async def error_event(call: Call) -> None:
    await call.begin_stream()
    await call.chunk(TOKEN + b'data: {"error": {"code": "engine_lost"}}\n\n')
    await call.end_stream()


async def busy(call: Call) -> None:
    await call.answer(429, b'{"error": {"code": "overloaded"}}', "retry-after: 2")


async def page(call: Call) -> None:
    await call.answer(502, b"<html>Bad Gateway</html>", "connection: close")


async def page_with_200(call: Call) -> None:
    await call.answer(200, b"<html>Welcome</html>")


async def interim(call: Call) -> None:
    await call.send(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
    await stream(call)


async def head_without_end(call: Call) -> None:
    await call.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await call.send(b"x-more: " + b"a" * 1000 + b"\r\n")


async def header_without_end(call: Call) -> None:
    await call.send(b"HTTP/1.1 200 OK\r\nx-more: ")
    while True:
        await call.send(b"a" * 1000)


async def too_many_headers(call: Call) -> None:
    await call.answer(200, WHOLE, *(f"x-{i}: a" for i in range(300)))


async def trailer_without_end(call: Call) -> None:
    await call.begin_stream()
    await call.chunk(TOKEN)
    await call.send(b"0\r\n")
    while True:
        await call.send(b"x-more: " + b"a" * 1000 + b"\r\n")


async def other_protocol(call: Call) -> None:
    await call.send(b"HTTP/1.1 101 Any\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc")


@pytest.mark.parametrize(
    ("script", "error", "status", "has_token"),
    [
        (truncated, "truncated", 200, True),
        (cut, "truncated", 200, True),
        (reset_behind_the_end, None, 200, True),
        (reset_at_once, "connection_lost", 0, False),
        (no_http, "not_http", 0, False),
        (bad_event, "bad_answer", 200, True),
        (error_event, "engine_lost", 200, True),
        (busy, "overloaded", 429, False),
        (page, "http_502", 502, False),
        (page_with_200, "bad_answer", 200, False),
        (interim, None, 200, True),
        (head_without_end, "not_http", 0, False),
        (header_without_end, "not_http", 0, False),
        (too_many_headers, "not_http", 0, False),
        (trailer_without_end, "not_http", 200, True),
        (other_protocol, "not_http", 0, False),
    ],
)
async def test_failures_are_counted_under_their_names(
    script: Script, error: str | None, status: int, has_token: bool
) -> None:
    record = await outcome(script)

    assert (record.error, record.status) == (error, status)
    assert (record.ttft_s is not None) == has_token


async def test_what_the_server_says_of_its_load_is_kept() -> None:
    assert (await outcome(busy)).retry_after_s == 2.0


async def test_an_unreadable_answer_in_one_piece() -> None:
    record = await outcome(page_with_200, is_stream=False)

    assert (record.error, record.status) == ("bad_answer", 200)


@pytest.mark.parametrize("cancel_after_s", [None, 0.2])
async def test_an_error_that_came_is_not_lost_when_the_client_leaves(
    cancel_after_s: float | None,
) -> None:
    async def stall_after_an_error(call: Call) -> None:
        await call.begin_stream()
        await call.chunk(TOKEN + b'data: {"error": {"code": "engine_lost"}}\n\n')
        await asyncio.sleep(60)

    async with scripted_server(stall_after_an_error) as server:
        asked = [session(cancel_after_s=cancel_after_s)]
        (record,) = await send(server.url, asked, limits=Limits(timeout_s=0.5))

    assert (record.error, record.cancelled) == ("engine_lost", False)


@pytest.mark.parametrize(
    "usage",
    [
        b'{"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 10}}',
        b'{"prompt_tokens_details": {"cached_tokens": 10}}',
    ],
)
async def test_no_more_is_cached_than_there_was(usage: bytes) -> None:
    async def answer(call: Call) -> None:
        await call.answer(200, WHOLE.replace(USAGE, usage))

    record = await outcome(answer, is_stream=False)

    assert (record.error, record.cached_tokens) == (None, None)


STREAMED: dict[Dialect, tuple[bytes, bytes]] = {
    "messages": (
        b'data: {"type": "content_block_delta", "delta": {"text": "ab"}}\n\n',
        b'data: {"type": "message_stop"}\n\n',
    ),
    "responses": (
        b'data: {"type": "response.output_text.delta", "delta": "ab"}\n\n',
        b'data: {"type": "response.completed", "response": {"status": "completed"}}\n\n',
    ),
}


@pytest.mark.parametrize(("has_end", "error"), [(True, None), (False, "truncated")])
@pytest.mark.parametrize("dialect", STREAMED)
async def test_an_end_as_chat_streams_have_it_neither_spoils_nor_ends_another(
    dialect: Dialect, has_end: bool, error: str | None
) -> None:
    token, end = STREAMED[dialect]

    async def script(call: Call) -> None:
        await call.begin_stream()
        await call.chunk(token + (end if has_end else b"") + b"data: [DONE]\n\n")
        await call.end_stream()

    async with scripted_server(script) as server:
        (record,) = await send(server.url, [session()], wire=WIRES[dialect])

    assert record.error == error


@pytest.mark.parametrize("dialect", STREAMED)
async def test_every_dialect_is_whole_at_its_own_end(dialect: Dialect) -> None:
    token, end = STREAMED[dialect]

    async def script(call: Call) -> None:
        await call.begin_stream()
        await call.chunk(token + end)
        call.reset()

    async with scripted_server(script) as server:
        (record,) = await send(server.url, [session()], wire=WIRES[dialect])

    assert (record.error, record.status) == (None, 200)


async def test_an_error_of_the_stream_outlives_its_end_and_a_reset() -> None:
    async def script(call: Call) -> None:
        await call.begin_stream()
        await call.chunk(b'data: {"error": {"code": "engine_lost"}}\n\ndata: [DONE]\n\n')
        call.reset()

    assert (await outcome(script)).error == "engine_lost"


async def test_an_empty_stream_is_empty_with_a_reset_behind_it_too() -> None:
    async def script(call: Call) -> None:
        await call.begin_stream()
        await call.chunk(b"data: [DONE]\n\n")
        call.reset()

    assert (await outcome(script)).error == "empty_answer"


NOTHING = b'{"choices": [{"message": {"content": ""}, "delta": {"content": ""}}]'
ONE_TOKEN, NO_TOKEN = (b', "usage": {"completion_tokens": %d}' % count for count in (1, 0))


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize(
    ("usage", "error"), [(ONE_TOKEN, None), (NO_TOKEN, "empty_answer"), (b"", "empty_answer")]
)
async def test_an_answer_without_a_token_is_a_failure(
    usage: bytes, error: str | None, is_stream: bool
) -> None:
    """A token that says nothing, such as the one that ends the answer, is a token."""

    async def script(call: Call) -> None:
        if is_stream:
            await call.begin_stream()
            await call.chunk(b"data: " + NOTHING + usage + b"}\n\ndata: [DONE]\n\n")
            await call.end_stream()
        else:
            await call.answer(200, NOTHING + usage + b"}")

    assert (await outcome(script, is_stream=is_stream)).error == error


async def test_a_stream_that_only_ends_is_empty() -> None:
    assert (await outcome(until_the_end(b"data: [DONE]\n\n"))).error == "empty_answer"


def until_the_end(body: bytes, version: str = "1.0", status: int = 200) -> Script:
    """An answer that ends with its connection."""

    async def script(call: Call) -> None:
        await call.send(f"HTTP/{version} {status} Any\r\nconnection: close\r\n\r\n".encode())
        await call.send(body)
        call.writer.close()

    return script


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_an_answer_may_end_with_its_connection(version: str) -> None:
    record = await outcome(until_the_end(TOKEN + LAST, version))
    whole = await outcome(until_the_end(WHOLE, version), is_stream=False)

    assert (record.error, record.output_tokens) == (None, 3)
    assert (whole.error, whole.output_tokens) == (None, 3)


async def test_an_answer_that_ends_with_its_connection_must_be_whole() -> None:
    refused = until_the_end(b'{"error": {"code": "overloaded"}}', status=429)

    assert (await outcome(until_the_end(TOKEN))).error == "truncated"
    assert (await outcome(until_the_end(WHOLE[:9]), is_stream=False)).error == "bad_answer"
    assert (await outcome(refused)).error == "overloaded"


@pytest.mark.parametrize(
    ("script", "is_stream"),
    [
        (stream, True),
        (lambda call: call.answer(200, WHOLE), False),
        (until_the_end(WHOLE), False),
    ],
)
async def test_a_fault_of_the_generator_is_no_fault_of_the_server(
    script: Script, is_stream: bool
) -> None:
    def fail(data: bytes) -> Part:
        raise RuntimeError(data)

    wire = replace(WIRES["chat"], read_event=fail, read_whole=fail)
    async with scripted_server(script) as server:
        (record,) = await send(server.url, [session()], is_stream=is_stream, wire=wire)

    assert (record.error, record.status) == ("generator_failed", 200)


async def test_what_follows_a_body_is_no_header_of_the_next_answer() -> None:
    async def trail(call: Call) -> None:
        await call.begin_stream()
        await call.chunk(LAST)
        await call.send(b"0\r\nretry-after: 7\r\n\r\n")

    async with scripted_server(trail) as server:
        records = await send(server.url, [session(i, i * 0.1) for i in range(2)])

        assert server.num_connections == 1
    assert [(r.error, r.retry_after_s) for r in records] == [(None, None)] * 2


@pytest.mark.parametrize(
    "more",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 408 Any\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        b"oops",
    ],
)
async def test_what_comes_with_an_answer_spoils_no_other(more: bytes) -> None:
    async def answer(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(WHOLE))
        await call.send(WHOLE + more)

    async with scripted_server(answer) as server:
        asked = [session(i, i * 0.1) for i in range(2)]
        records = await send(server.url, asked, is_stream=False)

        assert server.num_connections == 2
    assert [(record.error, record.output_tokens) for record in records] == [(None, 3)] * 2


async def test_nobody_listens() -> None:
    async with scripted_server(stream) as server:
        pass
    (record,) = await send(server.url, [session()])

    assert (record.error, record.status) == ("unreachable", 0)


async def test_a_server_that_stalls_is_given_up_after_the_timeout() -> None:
    async def stall(call: Call) -> None:
        await call.begin_stream()
        await call.chunk(TOKEN)
        await asyncio.sleep(60)

    async with scripted_server(stall) as server:
        (record,) = await send(server.url, [session()], limits=Limits(timeout_s=0.3))

    assert record.error == "timeout"
    assert record.latency_s is not None
    assert record.latency_s >= 0.3


async def test_arrivals_do_not_wait_for_answers() -> None:
    """Ten requests to a server that answers none of them before all have come."""
    all_there = asyncio.Event()

    async def wait_for_all(call: Call) -> None:
        if call.number == 9:
            all_there.set()
        await all_there.wait()
        await stream(call)

    async with scripted_server(wait_for_all) as server:
        records = await send(server.url, [session(i, i * 0.01) for i in range(10)])

    assert [record.error for record in records] == [None] * 10
    assert [record.due_s for record in sorted(records, key=lambda r: r.session)] == pytest.approx(
        [i * 0.01 for i in range(10)]
    )


async def test_a_late_answer_is_late_for_those_who_were_due_meanwhile() -> None:
    """No coordinated omission: a server that stops for 0.3 s is slow for all who came meanwhile."""
    ready = asyncio.Event()

    async def pause(call: Call) -> None:
        if call.number == 0:
            asyncio.get_running_loop().call_later(0.3, ready.set)
        await ready.wait()
        await stream(call)

    async with scripted_server(pause) as server:
        records = await send(server.url, [session(i, i * 0.05) for i in range(5)])

    for record in records:
        assert record.ttft_s is not None
        assert record.ttft_s + record.due_s >= 0.3 - 0.01


async def test_a_client_that_leaves_is_neither_failed_nor_completed() -> None:
    left = asyncio.Event()

    async def endless(call: Call) -> None:
        await call.begin_stream()
        try:
            while True:
                await call.chunk(TOKEN)
                await asyncio.sleep(0.01)
        finally:
            left.set()

    async with scripted_server(endless) as server:
        (record,) = await send(server.url, [session(cancel_after_s=0.1)])
        await asyncio.wait_for(left.wait(), 5)

    assert record.cancelled
    assert record.error is None
    assert record.ttft_s is not None


async def test_a_conversation_goes_on_after_its_answers() -> None:
    turns = (Turn(9, 3, (0,)), Turn(5, 3, (1,), think_s=0.1), Turn(5, 3, (2,), think_s=0.1))
    async with scripted_server(stream) as server:
        records = await send(server.url, [Session(4, 0.0, "t", turns)])
        asked = [json.loads(body)["messages"] for body in server.bodies]

    assert [(record.session, record.turn) for record in records] == [(4, 0), (4, 1), (4, 2)]
    assert [len(messages) for messages in asked] == [1, 3, 5]
    assert asked[2][1] == {"role": "assistant", "content": "ab ab ab "}
    for before, after in pairwise(records):
        assert before.latency_s is not None
        assert after.due_s >= before.due_s + before.latency_s + 0.1


async def test_a_conversation_ends_with_a_failed_turn() -> None:
    turns = (Turn(9, 3, (0,)), Turn(5, 3, (1,)))
    async with scripted_server(busy) as server:
        records = await send(server.url, [Session(0, 0.0, "t", turns)])

    assert [record.error for record in records] == ["overloaded"]


async def test_no_turn_begins_after_the_end() -> None:
    turns = (Turn(9, 3, (0,)), Turn(5, 3, (1,), think_s=60.0))
    async with scripted_server(stream) as server:
        limits = Limits(timeout_s=5.0, duration_s=1.0)
        records = await send(server.url, [Session(0, 0.0, "t", turns)], limits=limits)

    assert len(records) == 1


async def test_connections_are_used_again() -> None:
    async with scripted_server(stream) as server:
        records = await send(server.url, [session(i, i * 0.1) for i in range(4)])

        assert server.num_connections == 1
    assert len(records) == 4


async def test_a_kept_connection_that_the_server_closes_fails_no_request() -> None:
    async def close_the_second(call: Call) -> None:
        if call.place == 1:
            call.reset()
        else:
            await stream(call)

    async with scripted_server(close_the_second) as server:
        records = await send(server.url, [session(i, i * 0.1) for i in range(2)])

        assert server.num_connections == 2
    assert [record.error for record in records] == [None, None]


async def test_an_interrupted_run_keeps_what_has_ended() -> None:
    second_came = asyncio.Event()

    async def stall_after_the_first(call: Call) -> None:
        if call.number == 0:
            await stream(call)
        else:
            second_came.set()
            await asyncio.sleep(60)

    async with scripted_server(stall_after_the_first) as server:
        wording = Wording("m", True, True, 0.0)
        composer = Composer.make(Target.parse(server.url), WIRES["chat"], wording, None)

        def sessions() -> Iterator[Session]:
            yield session(0)
            yield session(1, 0.1)
            yield session(2, 3600.0)

        sender = Sender(
            sessions(),
            {"t": composer},
            Connections(server.url),
            prompt=lambda turn: b"hello",
            limits=Limits(timeout_s=60.0),
        )
        running = asyncio.create_task(sender.run(time.perf_counter()))
        await asyncio.wait_for(second_came.wait(), 5)
        sender.stop()
        await asyncio.wait_for(running, 5)

    assert [record.session for record in sender.take_records()] == [0]


@pytest.mark.parametrize(
    "sessions",
    [
        [session(0), session(1, 0.1), session(2, 0.2)],
        [Session(0, 0.0, "t", (Turn(9, 3, (0,)), Turn(5, 3, (2,))))],
    ],
    ids=["while it plans", "while it hears an answer"],
)
async def test_a_fault_of_the_loop_ends_the_run_at_once(sessions: list[Session]) -> None:
    def fail_for_one(turn: Turn) -> bytes:
        if turn.blocks == (2,):
            raise LookupError("no such block")
        return b"hello"

    async with scripted_server(stream) as server:
        with pytest.raises(LookupError, match="no such block"):
            await send(server.url, sessions, prompt=fail_for_one)


async def test_the_key_is_shown_as_a_bearer_token() -> None:
    heads: list[bytes] = []

    async def note(call: Call) -> None:
        heads.append(call.head)
        await stream(call)

    async with scripted_server(note) as server:
        await send(server.url, [session()])

    assert b"authorization: Bearer secret\r\n" in heads[0]
    assert b"POST /v1/chat/completions HTTP/1.1\r\n" in heads[0]
