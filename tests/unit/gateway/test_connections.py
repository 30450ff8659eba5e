"""The pool of connections, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator

import pytest

from serving.errors import Overloaded
from serving.gateway.connections import Connections, Request
from serving.gateway.upstream import UpstreamError

ASK = Request("POST", "/v1/x y", [(b"a", b"\xc3\xa9")], b"body")


class Server:
    """Answers every request with its number on the connection, and counts connections."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.num_connections = 0
        self.num_open = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        self.num_open += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        self.num_open -= 1
        writer.close()


@pytest.fixture
async def pool() -> AsyncIterator[Connections]:
    pool = Connections(1.0)
    yield pool
    pool.close()


@pytest.fixture
async def server(pool: Connections) -> AsyncIterator[Server]:
    server = Server()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with listener:
        yield server
        pool.close()
        await until_closed(server)


async def ask(pool: Connections, url: str) -> bytes:
    async with pool.request(url, ASK) as answer:
        return await answer.read(max_bytes=100)


async def until_closed(server: Server) -> None:
    async with asyncio.timeout(5):
        while server.num_open:  # noqa: ASYNC110 (a socket's other end raises no event)
            await asyncio.sleep(0.001)


async def test_a_request_as_the_replica_reads_it(pool: Connections, server: Server) -> None:
    assert await ask(pool, server.url) == b"ok"
    host = server.url.removeprefix("http://").encode()
    assert server.requests == [
        b"POST /v1/x%20y HTTP/1.1\r\nhost: "
        + host
        + b"\r\ncontent-length: 4\r\na: \xc3\xa9\r\n\r\nbody"
    ]


async def test_requests_in_turn_share_a_connection(pool: Connections, server: Server) -> None:
    for _ in range(3):
        await ask(pool, server.url)
    assert server.num_connections == 1


async def test_requests_at_once_do_not_wait_for_each_other(
    pool: Connections, server: Server
) -> None:
    async with pool.request(server.url, ASK), pool.request(server.url, ASK):
        assert server.num_connections == 2


async def test_an_answer_given_up_costs_the_connection(pool: Connections, server: Server) -> None:
    with pytest.raises(KeyError):
        async with pool.request(server.url, Request("POST", "/", [], bytes(10_000_000))):
            raise KeyError
    await ask(pool, server.url)
    with contextlib.suppress(UpstreamError):
        async with pool.request(server.url, ASK) as answer:
            await answer.read(max_bytes=1)
    pool.close()
    await until_closed(server)


async def test_an_idle_connection_is_closed_in_time(server: Server) -> None:
    pool = Connections(1.0, idle_s=0.01)
    await ask(pool, server.url)
    await until_closed(server)
    assert await ask(pool, server.url) == b"ok"
    assert server.num_connections == 2
    pool.close()


class Forgetful:
    """Answers so many requests on each connection, then reads one more and hangs up on it."""

    def __init__(self, *, answers: list[int]) -> None:
        self._answers = answers
        self.num_requests = 0
        self.num_connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = self._answers[self.num_connections]
        self.num_connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"body")
                self.num_requests += 1
                if not left:
                    break
                left -= 1
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        writer.close()


@contextlib.asynccontextmanager
async def listening(server: Forgetful) -> AsyncIterator[str]:
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    async with listener:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"


async def test_a_kept_connection_that_turns_out_dead_costs_nothing(pool: Connections) -> None:
    server = Forgetful(answers=[1, 2])
    async with listening(server) as url:
        for _ in range(2):
            assert await ask(pool, url) == b"ok"
        assert (server.num_connections, server.num_requests) == (2, 3)
        assert pool.abandon(url) == 0  # no request is held for busy any more


async def test_a_request_is_asked_again_once(pool: Connections) -> None:
    """A request that kills engines must not be handed to one again and again."""
    server = Forgetful(answers=[1, 0])
    async with listening(server) as url:
        await ask(pool, url)
        with pytest.raises(UpstreamError) as caught:
            await ask(pool, url)
        assert caught.value.may_have_run
        assert server.num_requests == 3


async def test_a_fresh_connection_that_breaks_is_not_asked_again(pool: Connections) -> None:
    server = Forgetful(answers=[0])
    async with listening(server) as url:
        with pytest.raises(UpstreamError) as caught:
            await ask(pool, url)
        assert caught.value.may_have_run
        assert server.num_requests == 1


async def test_a_replica_that_dies_of_a_request_on_a_kept_connection_may_have_run_it(
    pool: Connections,
) -> None:
    server = Forgetful(answers=[1])
    async with listening(server) as url:
        await ask(pool, url)
    with pytest.raises(UpstreamError, match="cannot connect") as caught:
        await ask(pool, url)
    assert caught.value.may_have_run


async def test_nobody_there(pool: Connections) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(UpstreamError, match="cannot connect") as caught:
        await ask(pool, f"http://127.0.0.1:{port}")
    assert not caught.value.may_have_run


async def test_a_full_listener_is_given_up(server: Server) -> None:
    pool = Connections(0.05)
    with socket.socket() as full, contextlib.ExitStack() as callers:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(2):  # fills the kernel's queue of connections nobody accepts
            caller = callers.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(full.getsockname())
        with pytest.raises(UpstreamError, match="cannot connect"):
            await ask(pool, f"http://127.0.0.1:{full.getsockname()[1]}")


async def test_a_gateway_without_descriptors_says_so(server: Server) -> None:
    """Nothing is wrong with the replica: it must not count as failed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as last:
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno() + 1, hard))
        try:
            with pytest.raises(Overloaded) as caught:
                await ask(Connections(1.0), server.url)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.retry_after_s == 1


async def test_abandoning_a_replica_ends_what_waits_for_it(pool: Connections) -> None:
    asked = asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    listener = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with listener:
        waiting = asyncio.create_task(ask(pool, url))
        await asked.wait()
        assert pool.abandon("http://another") == 0
        assert pool.abandon(url) == 1
        with pytest.raises(UpstreamError) as broken:
            await waiting
        assert broken.value.may_have_run
        assert pool.abandon(url) == 0


async def test_abandoning_a_replica_closes_what_is_idle(pool: Connections, server: Server) -> None:
    await ask(pool, server.url)
    assert pool.abandon(server.url) == 0
    await until_closed(server)
    assert await ask(pool, server.url) == b"ok"
    assert server.num_connections == 2
