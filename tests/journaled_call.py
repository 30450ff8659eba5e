"""One journaled request to an engine's application, as guard and gateway together make it."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

from serving.engine.journaling import serve_journaled
from serving.protocol.journal import JournalReader

if TYPE_CHECKING:
    from starlette.types import ASGIApp

VERSION = "v1"
_CREATED = re.compile(rb'"created":\d+')


class LostError(Exception):
    """The replica dies here."""


class JournaledCall:
    """A request that is run until it is cut, and then again.

    `seen` is what the client has got, `num_frames` what the last run has sent.
    """

    def __init__(self, path: str, body: dict[str, Any]) -> None:
        self.path = path
        self.reader = JournalReader(max_bytes=10**6)
        self.seen = b""
        self.num_frames = 0
        self.is_whole = False
        self._body = json.dumps(body).encode()

    @property
    def undated(self) -> bytes:
        """What the client has got, whenever that was."""
        return _CREATED.sub(b'"created":0', self.seen)

    async def run(self, app: ASGIApp, *, max_frames: int | None = None) -> None:
        """Let the application answer, or go on, up to a number of frames."""
        headers = [
            (b"content-type", b"application/json"),
            (b"x-galerne-journal", VERSION.encode()),
            (b"x-request-id", b"resume"),
        ]
        told = bytes(self.reader.records)
        if told:
            headers.append((b"x-galerne-resume", b"%d" % len(told)))
        self.reader.resume()
        messages = [{"type": "http.request", "body": told + self._body, "more_body": False}]
        self.num_frames = 0

        async def receive() -> dict[str, Any]:
            if not messages:
                await asyncio.Event().wait()
            return messages.pop()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                assert message["status"] == 200, message
                return
            if max_frames is not None and self.num_frames >= max_frames:
                raise LostError
            self.num_frames += 1
            self.seen += self.reader.feed(message["body"])
            self.is_whole = not message.get("more_body", False)

        scope = {
            "type": "http", "method": "POST", "path": self.path, "raw_path": self.path.encode(),
            "query_string": b"", "headers": headers, "http_version": "1.1", "scheme": "http",
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "root_path": "",
        }  # fmt: skip
        try:
            await serve_journaled(app, scope, receive, send, version=VERSION)
        except (LostError, ExceptionGroup) as error:
            if not _is_lost(error):
                raise


def _is_lost(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_lost, error.exceptions))
    return isinstance(error, LostError)
