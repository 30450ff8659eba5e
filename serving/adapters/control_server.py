"""Answering Galerne's own commands on a loopback port; `control_client` is the other side."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from serving.adapters.control_client import REFUSED_STATUS
from serving.core.wire import INTERNAL_TOKEN
from serving.errors import ConfigError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

Read = Callable[[], Awaitable[Mapping[str, Any]]]
"""Answers a GET."""
Write = Callable[[Any], Awaitable[Mapping[str, Any] | None]]
"""Takes the body of a POST, and may answer."""


class ControlServer:
    """Serves the given paths to holders of the internal token."""

    def __init__(self, token: str, *, reads: Mapping[str, Read], writes: Mapping[str, Write]):
        self._token = token
        application = web.Application(middlewares=[self._guard])
        application.router.add_routes([web.get(path, _getter(do)) for path, do in reads.items()])
        application.router.add_routes([web.post(path, _setter(do)) for path, do in writes.items()])
        self._runner = web.AppRunner(application, access_log=None)

    async def start(self) -> str:
        """Listen on a free port; returns the base address."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        presented = request.headers.get(INTERNAL_TOKEN.decode(), "")
        if not hmac.compare_digest(presented.encode(), self._token.encode()):
            return web.Response(status=401)
        try:
            return await handler(request)
        except ConfigError as error:
            fields = {"message": error.message, "code": error.code, "param": error.param}
            return web.json_response({**fields, "hint": error.hint}, status=REFUSED_STATUS)


def _getter(read: Read) -> Handler:
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response(await read())

    return answer


def _setter(write: Write) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(await write(await request.json()) or {})

    return answer
