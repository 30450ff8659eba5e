"""The listener: one free port, on the running loop, gone when it is stopped."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import psutil
import pytest

from serving.engine.listener import HttpListener

HOST = "127.0.0.1"


async def hello(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def test_it_answers_at_its_url_until_stopped() -> None:
    listener = HttpListener(hello, host=HOST)
    assert not listener.is_serving
    listener.start()
    assert listener.is_serving

    async with aiohttp.ClientSession() as session:
        async with session.get(listener.url) as response:
            assert await response.read() == b"hello"
            assert not response.headers.keys() & {"server", "date"}
        await listener.stop()
        assert not listener.is_serving
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(listener.url)


async def test_a_socket_that_listens_no_more_is_noticed() -> None:
    """Its connections live on, and its server knows nothing of it."""
    listener = HttpListener(hello, host=HOST)
    listener.start()
    async with aiohttp.ClientSession() as session:
        await (await session.get(listener.url)).read()
        stop_listening(urlsplit(listener.url).port)
        assert not listener.is_serving
    await listener.stop()


def stop_listening(port: int | None) -> None:
    (found,) = [
        connection
        for connection in psutil.Process().net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    ]
    with socket.socket(fileno=os.dup(found.fd)) as copy:
        copy.shutdown(socket.SHUT_RDWR)


async def test_connections_before_the_start_are_kept_waiting() -> None:
    listener = HttpListener(hello, host=HOST)
    async with aiohttp.ClientSession() as session:
        asked = asyncio.create_task(session.get(listener.url))
        await asyncio.sleep(0)
        listener.start()
        async with await asked as response:
            assert response.status == 200
    await listener.stop()


async def test_two_listeners_do_not_meet() -> None:
    listeners = [HttpListener(hello, host=HOST) for _ in range(2)]
    assert listeners[0].url != listeners[1].url
    for listener in listeners:
        listener.start()
    await asyncio.gather(*(listener.stop() for listener in listeners))
