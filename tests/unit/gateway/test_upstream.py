"""A connection to a replica, on a transport that only notes what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.gateway.upstream import Connection, Sink, UpstreamError

HEAD = b"POST /v1/x HTTP/1.1\r\nhost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class FakeTransport:
    """Keeps what is written; pauses after `room` bytes if that is given."""

    def __init__(self, connection: Connection, room: int | None = None) -> None:
        self.connection = connection
        self.written = b""
        self.room = room
        self.is_reading = True
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.written += data
        if self.room is not None and len(self.written) > self.room:
            self.connection.pause_writing()

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def abort(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.connection.connection_lost(None)


def connected(room: int | None = None) -> tuple[Connection, FakeTransport, list[Connection]]:
    closed: list[Connection] = []
    connection = Connection(closed.append)
    transport = FakeTransport(connection, room)
    connection.connection_made(cast("asyncio.Transport", transport))
    return connection, transport, closed


async def asking(connection: Connection, body: bytes = b"{}") -> asyncio.Task[Any]:
    """A request under way: what can be written at once has been."""
    task = asyncio.create_task(connection.ask(HEAD, body))
    await asyncio.sleep(0)
    return task


def into(parts: list[bytes]) -> Sink:
    return lambda part: parts.append(part)


async def answered(connection: Connection, answer: bytes) -> tuple[int, bytes]:
    task = await asking(connection)
    connection.data_received(answer)
    head = await task
    parts: list[bytes] = []
    await connection.stream(into(parts))
    return head.status, b"".join(parts)


async def test_an_answer_with_a_length() -> None:
    connection, transport, _ = connected()
    assert await answered(connection, OK) == (200, b"hello")
    assert transport.written == HEAD + b"{}"


@pytest.mark.parametrize("room", [None, 1000])
async def test_a_body_in_pieces_is_sent_as_one(room: int | None) -> None:
    pieces = (b"a" * 300_000, bytearray(b"b" * 10), b"", b"c" * 600_000)
    connection, transport, _ = connected(room)
    task = asyncio.create_task(connection.ask(HEAD, *pieces))
    while not transport.written.endswith(b"c" * 600_000):
        await asyncio.sleep(0)
        connection.resume_writing()
    await asyncio.sleep(0)
    assert transport.written == HEAD + b"".join(pieces)
    connection.data_received(OK)
    await task
    await connection.stream(into([]))
    assert connection.release()


@given(st.data())
def test_a_chunked_answer_arrives_whole_however_it_is_cut(data: st.DataObject) -> None:
    chunks = data.draw(st.lists(st.binary(min_size=1, max_size=40), max_size=8))
    framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    wire = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\n\r\n" + framed + b"0\r\n\r\n"
    )
    cuts = sorted(data.draw(st.sets(st.integers(1, len(wire) - 1), max_size=12)))
    pieces = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]

    async def receive() -> None:
        connection, transport, _ = connected()
        asked = await asking(connection)
        parts: list[bytes] = []
        streamed: asyncio.Task[None] | None = None
        for piece in pieces:
            if streamed is not None or transport.is_reading:
                connection.data_received(piece)
            else:  # the body began before anyone asked for it
                head = await asked
                assert head.header(b"x-a") == b"1"
                streamed = asyncio.create_task(connection.stream(into(parts)))
                await asyncio.sleep(0)
                connection.data_received(piece)
        await asked
        await (streamed or connection.stream(into(parts)))
        assert b"".join(parts) == b"".join(chunks)
        assert connection.release()

    asyncio.run(receive())


async def test_a_part_reaches_its_taker_in_the_pass_that_read_it() -> None:
    connection, _, _ = connected()
    asked = await asking(connection)
    connection.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    await asked
    parts: list[bytes] = []
    streamed = asyncio.create_task(connection.stream(into(parts)))
    await asyncio.sleep(0)

    connection.data_received(b"1\r\na\r\n1\r\nb\r\n")

    assert parts == [b"ab"]  # one write for what came together
    streamed.cancel()


async def test_reading_stops_while_the_taker_is_slow() -> None:
    connection, transport, _ = connected()
    asked = await asking(connection)
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")
    await asked
    parts: list[bytes] = []
    is_free = asyncio.Event()

    def slow(part: bytes) -> Awaitable[None] | None:
        parts.append(part)
        return None if is_free.is_set() else cast("Awaitable[None]", is_free.wait())

    streamed = asyncio.create_task(connection.stream(slow))
    await asyncio.sleep(0)
    connection.data_received(b"a")
    assert not transport.is_reading
    connection.data_received(b"bc")  # had been read before the pause
    assert parts == [b"a"]

    is_free.set()
    await streamed
    assert parts == [b"a", b"bc"]
    assert connection.release()
    assert transport.is_reading


async def test_what_the_taker_raises_ends_the_stream() -> None:
    connection, _, _ = connected()

    def broken(part: bytes) -> None:
        raise ValueError(part)

    asked = await asking(connection)
    connection.data_received(OK)
    await asked
    with pytest.raises(ValueError, match="hello"):
        await connection.stream(broken)


async def test_an_interim_answer_is_skipped() -> None:
    connection, _, _ = connected()
    assert await answered(connection, b"HTTP/1.1 100 Continue\r\n\r\n" + OK) == (200, b"hello")


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 OK\r\n"], ids=["nothing", "half a head"])
async def test_a_replica_that_leaves_before_it_answers_may_have_run(before: bytes) -> None:
    connection, _, closed = connected()
    asked = await asking(connection)
    connection.data_received(before)
    connection.connection_lost(ConnectionResetError())
    with pytest.raises(UpstreamError) as caught:
        await asked
    assert caught.value.may_have_run
    assert closed == [connection]


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 OK\r\n"], ids=["nothing", "half a head"])
async def test_only_a_connection_that_said_nothing_ended_unheard(before: bytes) -> None:
    connection, _, _ = connected()
    await answered(connection, OK)
    asked = await asking(connection)
    if before:
        connection.data_received(before)
    connection.connection_lost(None)
    with pytest.raises(UpstreamError):
        await asked
    assert not connection.release()
    assert connection.ended_unheard is (before == b"")


async def test_a_connection_that_was_given_up_did_not_end_unheard() -> None:
    connection, _, _ = connected()
    asked = await asking(connection)
    connection.close()
    with pytest.raises(UpstreamError):
        await asked
    assert not connection.ended_unheard


async def test_a_replica_that_leaves_midway_ends_the_stream() -> None:
    connection, _, _ = connected()
    asked = await asking(connection)
    connection.data_received(OK[:-2])
    connection.connection_lost(None)
    await asked
    parts: list[bytes] = []
    with pytest.raises(UpstreamError, match="closed by the replica"):
        await connection.stream(into(parts))
    assert parts == [b"hel"]


async def test_what_is_not_http_is_refused() -> None:
    connection, transport, _ = connected()
    asked = await asking(connection)
    connection.data_received(b"SSH-2.0-x\r\n")
    with pytest.raises(UpstreamError, match="not HTTP"):
        await asked
    assert transport.is_closed


async def test_a_long_body_is_written_as_the_replica_takes_it() -> None:
    connection, transport, _ = connected(room=1000)
    body = bytes(700_000)
    asked = await asking(connection, body)
    written = len(transport.written)
    assert written < len(body)
    while len(transport.written) < len(HEAD) + len(body):
        connection.resume_writing()
        await asyncio.sleep(0)
        assert len(transport.written) > written
        written = len(transport.written)
    connection.resume_writing()
    connection.data_received(OK)
    assert (await asked).status == 200


async def test_an_answer_ahead_of_the_body_is_heard_but_the_connection_is_spent() -> None:
    connection, transport, _ = connected(room=1000)
    asked = await asking(connection, bytes(700_000))
    connection.data_received(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
    assert (await asked).status == 503
    assert not connection.release()
    assert transport.is_closed


async def test_a_connection_serves_one_request_after_another() -> None:
    connection, _, closed = connected()
    for _ in range(3):
        assert await answered(connection, OK) == (200, b"hello")
        assert connection.release()
    assert closed == []


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["close", "1.0", "unfinished", "failed"],
)
async def test_other_connections_are_closed(answer: bytes) -> None:
    connection, transport, _ = connected()
    asked = await asking(connection)
    connection.data_received(answer)
    await asked
    assert not connection.release()
    assert transport.is_closed


async def test_an_answer_that_nobody_asked_for_closes_the_connection() -> None:
    connection, transport, closed = connected()
    await answered(connection, OK)
    connection.release()
    connection.data_received(OK)
    assert transport.is_closed
    assert closed == [connection]
    with pytest.raises(UpstreamError):
        await connection.ask(HEAD, b"")


async def test_a_refusal_whose_body_is_not_read_leaves_a_good_connection() -> None:
    connection, transport, _ = connected()
    asked = await asking(connection)
    connection.data_received(OK)
    await asked
    assert connection.release()
    assert transport.is_reading
    assert await answered(connection, OK) == (200, b"hello")
