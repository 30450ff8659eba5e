"""Connections that cannot be opened: each request is told why."""

from __future__ import annotations

import asyncio
import resource
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web
from aiohttp.test_utils import TestServer

from loadtest.generator.connection import Connection, Connections, Headers
from loadtest.report.meanings import meaning
from tests.kube_api.certificates import Authority, server_context
from tests.scripted_server import Call, scripted_server

Run = Callable[[Coroutine[Any, Any, str]], str]


class Waiting:
    """A listener that wants nothing but to learn why there will be no answer."""

    def __init__(self) -> None:
        self.reason: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def connected(self, connection: Connection) -> bool:
        raise AssertionError(f"{connection} is open")

    def heard_head(self, status: int, headers: Headers) -> None:
        raise AssertionError(status, headers)

    def heard_body(self, part: bytes, now: float) -> None:
        raise AssertionError(part, now)

    def heard_end(self, now: float) -> None:
        raise AssertionError(now)

    def lost(self, reason: str, now: float) -> None:
        self.reason.set_result(reason)


async def why_lost(url: str, tls: ssl.SSLContext | None = None) -> str:
    listener = Waiting()
    Connections(url, tls).ask(b"", listener)
    return await asyncio.wait_for(listener.reason, 20)


async def never(call: Call) -> None:
    raise AssertionError(call)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize("host", ["a..example", ".example", "a" * 64])
def test_a_host_that_is_no_name_is_named_so(run: Run, host: str) -> None:
    assert run(why_lost(f"http://{host}:1")) == "bad_host_name"
    assert meaning("bad_host_name").startswith("The endpoint's host")


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_name_that_tls_cannot_check_is_named_so(run: Run) -> None:
    assert run(why_lost("https://", ssl.create_default_context())) == "bad_host_name"


@pytest.mark.parametrize("speaks_tls", [False, True])
async def test_a_server_without_a_certificate_that_is_trusted(
    tmp_path: Path, speaks_tls: bool
) -> None:
    pair = Authority(tmp_path).issue("127.0.0.1")
    server = TestServer(web.Application(), scheme="https")
    await server.start_server(ssl=server_context(pair) if speaks_tls else None)
    try:
        reason = await why_lost(str(server.make_url("/")), ssl.create_default_context())
    finally:
        await server.close()

    assert reason == "tls_failed"


async def test_sockets_that_are_used_up_are_the_generators() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with scripted_server(never) as server:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            reason = await why_lost(server.url)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert reason == "generator_out_of_sockets"
