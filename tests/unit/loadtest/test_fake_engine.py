"""The engine with exactly known timing."""

import asyncio
import json

import aiohttp
import pytest

from loadtest.client import Client, Shape
from loadtest.fake_engine import Connection, Engine, Timing, content_length
from loadtest.peers.base import Server


@pytest.fixture
async def server():
    engine = Engine("sim", Timing(ttft_s=0.0, interval_s=0.001))
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: Connection(engine), "127.0.0.1", 0)
    ticking = asyncio.create_task(engine.tick_forever())
    port = listener.sockets[0].getsockname()[1]
    yield Server(f"http://127.0.0.1:{port}", "sim")
    ticking.cancel()
    listener.close()


async def test_streams_have_the_tokens_asked_for_and_a_closing_event(server: Server) -> None:
    async with aiohttp.ClientSession() as session:
        client = Client(session, server)

        streams = await client.streams(Shape(num_tokens=5), 3)

        assert [(s.num_chunks, s.error) for s in streams] == [(6, None)] * 3
        assert client.tally.num_open == 0


async def test_a_connection_serves_one_request_after_another(server: Server) -> None:
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(connector=connector) as session:
        client = Client(session, server)

        streams = [await client.stream(Shape(num_tokens=n)) for n in (1, 2)]

        assert [s.num_chunks for s in streams] == [2, 3]


async def test_routers_find_the_model(server: Server) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/v1/models") as answer:
        assert json.loads(await answer.read())["data"][0]["id"] == "sim"


async def test_a_server_that_is_gone_is_an_error_of_the_stream() -> None:
    async with aiohttp.ClientSession() as session:
        stream = await Client(session, Server("http://127.0.0.1:1", "sim")).stream(Shape(1))

    assert stream.error is not None
    assert stream.error.startswith("ClientConnectorError")


def test_a_head_without_a_length_has_no_body() -> None:
    assert content_length(b"GET / HTTP/1.1\r\nHost: a") == 0
