"""An HTTP listener inside a replica's process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_KEEP_ALIVE_S = 75
"""Longer than the gateway keeps idle connections (60 s), so that the gateway closes first and never
writes a request into a connection that is being closed."""


class HttpListener:
    """uvicorn on a free port of one address, on the running event loop."""

    def __init__(self, app: ASGIApp, *, host: str) -> None:
        self._socket = socket.create_server((host, 0), backlog=2048)
        self._server = _QuietServer(
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
        self._server.should_exit = True
        self._server.force_exit = True
        if self._task is not None:
            await self._task
        for connection in tuple(self._server.server_state.connections):
            connection.transport.abort()


class _QuietServer(uvicorn.Server):
    """uvicorn without signal handlers: signals belong to the process that hosts the replica."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
