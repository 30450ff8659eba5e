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
