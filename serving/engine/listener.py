"""An HTTP listener inside a replica's process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_KEEP_ALIVE_S = 75
"""Longer than the gateway keeps idle connections (60 s), so that the gateway closes first and never
writes a request into a connection that is being closed."""

_LAST_BYTES_S = 0.1
"""For what has been written to reach the other side before its connection is cut."""


class HttpListener:
    """uvicorn on a free port of one address, on the running event loop."""

    def __init__(self, app: ASGIApp, *, host: str) -> None:
        self._socket = socket.create_server((host, 0), backlog=2048)
        self._server = _Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                server_header=False,
                date_header=False,
            )
        )
        self._task: asyncio.Task[None] | None = None
        self.url = f"http://{host}:{self._socket.getsockname()[1]}"

    def start(self) -> None:
        """Accept connections; the kernel has queued them since construction."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))

    @property
    def is_serving(self) -> bool:
        """Whether the kernel takes connections for it and they are served."""
        if self._task is None or self._task.done():
            return False
        try:
            return bool(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        except OSError:
            return False

    async def stop(self) -> None:
        """Close the listener and cut its connections.

        A gateway then tells its client in Galerne's words that the stream broke, before the engine
        can end it in its own.
        """
        self._server.end()
        if self._task is not None:
            await self._task


class _Server(uvicorn.Server):
    """uvicorn that sleeps until it is told to end, where its own wakes ten times a second to look.

    It has no signal handlers: signals belong to the process that hosts the replica.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._is_to_end = asyncio.Event()

    def end(self) -> None:
        """Let `serve` return, without a word to the application."""
        self.should_exit = True
        self._is_to_end.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await self.on_tick(0)  # which sets the headers of every answer
        await self._is_to_end.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Idle connections are closed at once, others cut when they had time for their last bytes.

        uvicorn's own waits as long for nobody, too.
        """
        for server in self.servers:
            server.close()
        for listening in sockets or ():
            listening.close()
        connections = self.server_state.connections
        for connection in tuple(connections):
            connection.shutdown()
        deadline = time.monotonic() + _LAST_BYTES_S
        while connections and time.monotonic() < deadline:  # noqa: ASYNC110 (uvicorn tells nobody)
            await asyncio.sleep(_LAST_BYTES_S / 20)
        for connection in tuple(connections):
            connection.transport.abort()
