"""A gateway follows its replicas' state over real sockets, whatever happens to the streams."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import pytest

from serving.core.types import ReplicaEndpoint, ReplicaId
from serving.core.wire import INTERNAL_TOKEN, STATE_STREAM_PATH
from serving.engine.listener import HttpListener
from serving.engine.state_stream import StateStream
from serving.gateway.connections import Connections
from serving.gateway.replica_states import SUSPECT_S, ReplicaStates
from serving.protocol.state_frames import CacheLayout, LoadReport, StateFrame, encode_frame
from serving.routing.block_namer import CacheChange

HOST = "127.0.0.1"
TOKEN = "internal"
LAYOUT = CacheLayout(block_size=16, total_blocks=100, window_blocks=(None,))


class Replica:
    """The state stream of a replica, served as its listener serves it."""

    def __init__(self, name: str) -> None:
        self.held: list[int] = []
        self.running = 0
        self.num_streams = 0
        self._told: list[int] = []
        self.stream = StateStream(
            LAYOUT,
            report=lambda: LoadReport(self.running, 0, 0, 0.0, 0, 0, draining=False),
            changes=self._change,
            cached=lambda: {0: list(self.held)},
            rng=Random(0),
        )
        self.listener = HttpListener(self, host=HOST)
        self.endpoint = ReplicaEndpoint(ReplicaId(name), self.listener.url, "", "node", 1, "v")

    def _change(self) -> CacheChange:
        stored = [name for name in self.held if name not in self._told]
        removed = [name for name in self._told if name not in self.held]
        self._told = list(self.held)
        return CacheChange({0: stored} if stored else {}, {0: removed} if removed else {})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        assert scope["path"] == STATE_STREAM_PATH
        assert (INTERNAL_TOKEN, TOKEN.encode()) in scope["headers"]
        self.num_streams += 1
        await self.stream.serve(receive, send)

    @contextlib.asynccontextmanager
    async def running_now(self) -> AsyncIterator[None]:
        self.listener.start()
        telling = asyncio.create_task(self.stream.run())
        try:
            yield
        finally:
            telling.cancel()
            await self.listener.stop()


def states() -> ReplicaStates:
    return ReplicaStates(
        Connections(1.0), token=TOKEN, max_entries=1000, now=time.monotonic, rng=Random(0)
    )


async def until(condition: Callable[[], object], *, within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 (what is awaited has no event)
            await asyncio.sleep(0.005)


def hits(followed: ReplicaStates, *names: int) -> dict[str, int]:
    return {} if followed.index is None else dict(followed.index.hits(names))


def running_of(followed: ReplicaStates, replica: Replica) -> int | None:
    state = followed.state(replica.endpoint.id)
    return None if state is None else state.report.running


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    replica = Replica("a")
    async with replica.running_now():
        yield replica


@pytest.fixture
async def followed(replica: Replica) -> AsyncIterator[ReplicaStates]:
    followed = states()
    followed.follow([replica.endpoint])
    yield followed
    await followed.close()


async def test_load_and_blocks_arrive(replica: Replica, followed: ReplicaStates) -> None:
    replica.held = [1, 2]
    replica.running = 5
    await until(lambda: hits(followed, 1, 2) == {"a": 2})
    state = followed.state(replica.endpoint.id)
    assert state is not None
    assert state.report.running == 5
    assert state.layout == LAYOUT
    replica.held = [1]
    await until(lambda: hits(followed, 1, 2) == {"a": 1})


async def test_every_change_is_reported(replica: Replica, followed: ReplicaStates) -> None:
    for number in range(1, 6):
        replica.running = number
        await until(lambda: running_of(followed, replica) == number)  # noqa: B023


async def test_a_lost_stream_is_opened_again(replica: Replica, followed: ReplicaStates) -> None:
    replica.held = [1]
    await until(lambda: hits(followed, 1))
    for connection in tuple(replica.listener._server.server_state.connections):
        connection.transport.abort()
    replica.held = [1, 2, 3]
    await until(lambda: hits(followed, 1, 2, 3) == {"a": 3})
    assert replica.num_streams == 2


async def test_a_missing_frame_costs_a_snapshot(replica: Replica, followed: ReplicaStates) -> None:
    await until(lambda: followed.state(replica.endpoint.id))
    replica.stream._seq += 1  # a frame nobody got
    replica.held = [4]
    await until(lambda: hits(followed, 4) == {"a": 1})
    assert followed.num_gaps == 1
    assert replica.num_streams == 2


async def test_a_replica_that_goes_is_forgotten(replica: Replica, followed: ReplicaStates) -> None:
    replica.held = [1]
    await until(lambda: hits(followed, 1))
    followed.follow([])
    assert followed.state(replica.endpoint.id) is None
    assert hits(followed, 1) == {}
    await until(lambda: not replica.stream._subscribers)


async def test_a_replica_that_refuses_its_state_is_not_silent() -> None:
    """It answers: requests may go there, chosen by what the gateway itself knows."""
    num_asked = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_asked
        await reader.readuntil(b"\r\n\r\n")
        num_asked += 1
        writer.write(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, HOST, 0) as server:
        url = f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
        endpoint = ReplicaEndpoint(ReplicaId("odd"), url, "", "node", 1, "v")
        followed = states()
        followed.follow([endpoint])
        await until(lambda: num_asked == 4)
        assert followed.silent_s(endpoint.id) == 0.0
        assert followed.state(endpoint.id) is None
        await followed.close()


async def test_a_replica_that_answers_nothing_is_asked_again() -> None:
    num_asked = 0
    left: list[int] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_asked
        num_asked += 1
        if num_asked > 1:
            frame = encode_frame(
                StateFrame(1, LAYOUT, LoadReport(9, 0, 0, 0.0, 0, 0, draining=False))
            )
            head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(frame)
            writer.write(head + frame)
        with contextlib.suppress(ConnectionError):
            await reader.read()  # until the gateway leaves
        writer.close()
        left.append(num_asked)

    clock = [0.0]
    server = await asyncio.start_server(accept, HOST, 0)
    url = f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
    endpoint = ReplicaEndpoint(ReplicaId("mute"), url, "", "node", 1, "v")
    connections = Connections(1.0)
    followed = ReplicaStates(
        connections, token=TOKEN, max_entries=9, now=lambda: clock[0], rng=Random(0)
    )
    followed.follow([endpoint])
    await until(lambda: num_asked == 1)
    clock[0] = 100.0
    assert followed.problems() == ["replica mute has not told its state for 100 s"]
    assert followed.silent_s(endpoint.id) < SUSPECT_S  # a leap of the clock is no silence
    await until(lambda: followed.silent_s(endpoint.id) == SUSPECT_S)
    await until(lambda: followed.state(endpoint.id))
    assert followed.silent_s(endpoint.id) == 0.0
    assert followed.problems() == []
    await followed.close()
    connections.close()
    server.close()
    await until(lambda: len(left) == num_asked)
    await asyncio.sleep(0)
