"""An HTTP server that does just what a test writes down, however wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Script = Callable[["Call"], Awaitable[None]]


@dataclass(slots=True)
class Call:
    """One request that has come; `number` counts all requests, `place` those of its connection."""

    number: int
    place: int
    head: bytes
    body: bytes
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, status: int, body: bytes, *headers: str) -> None:
        """A whole answer with a length."""
        lines = [f"HTTP/1.1 {status} Any", f"content-length: {len(body)}", *headers]
        await self.send("\r\n".join([*lines, "\r\n"]).encode() + body)

    async def begin_stream(self) -> None:
        await self.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\nx-request-id: req-1\r\n\r\n"
        )

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end_stream(self) -> None:
        await self.send(b"0\r\n\r\n")

    def reset(self) -> None:
        self.writer.transport.abort()


@dataclass(slots=True)
class ScriptedServer:
    """`url` is where it listens, `bodies` what it has been asked."""

    url: str
    bodies: list[bytes] = field(default_factory=list)
    num_connections: int = 0


@asynccontextmanager
async def scripted_server(script: Script) -> AsyncIterator[ScriptedServer]:
    """A server that follows `script` for every request."""
    server_state = ScriptedServer("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_state.num_connections += 1
        place = 0
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.partition(b":")[2])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length")
                )
                body = await reader.readexactly(length)
                server_state.bodies.append(body)
                await script(Call(len(server_state.bodies) - 1, place, head, body, writer))
                place += 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    server_state.url = f"http://{host}:{port}"
    try:
        yield server_state
    finally:
        server.close()
