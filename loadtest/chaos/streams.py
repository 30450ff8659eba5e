"""Streams that are kept byte by byte, to be compared with an undisturbed run of the same requests.

Clients of their own: the benches' client counts chunks and keeps none.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from loadtest.peers.base import Server

_CREATED = re.compile(rb'"created":\d+')
_DONE = b"data: [DONE]"


@dataclass(slots=True)
class Recorded:
    """One stream as its client saw it. `gap_s` is its longest silence after the first byte."""

    body: bytes = b""
    gap_s: float = 0.0
    failure: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether it has come to its end, with no error in it."""
        return (
            not self.failure and self.body.rstrip().endswith(_DONE) and b'"error"' not in self.body
        )

    @property
    def undated(self) -> bytes:
        """What it said, whenever that was."""
        return _CREATED.sub(b'"created":0', self.body)


@dataclass(frozen=True, slots=True)
class Load:
    """Streams of `num_tokens` tokens each, all at once; `prompt_words` makes prompts longer."""

    count: int
    num_tokens: int
    prompt_words: int = 0

    def body(self, model: str, number: int, run: str) -> dict[str, Any]:
        """A request that finds no cache with anything of it, in whichever replica and run."""
        words = " ".join(f"wave {number} {word}" for word in range(self.prompt_words))
        return {
            "model": model,
            "messages": [{"role": "user", "content": f"Tell story {number} of the sea. {words}"}],
            "max_tokens": self.num_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "cache_salt": f"{run} {number}",
        }


class Crowd:
    """All streams of one load, while they run."""

    def __init__(self, server: Server, load: Load, run: str) -> None:
        self._server = server
        self._load = load
        self._run = run
        self.streams = [Recorded() for _ in range(load.count)]
        self._num_begun = 0
        self.has_begun = asyncio.Event()
        """Set when every stream has had a byte, or has failed."""

    async def go(self) -> None:
        """Return when the last has ended, in whatever way."""
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=300)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            await asyncio.gather(*(self._one(session, n) for n in range(self._load.count)))

    async def _one(self, session: aiohttp.ClientSession, number: int) -> None:
        recorded = self.streams[number]
        body = self._load.body(self._server.model, number, self._run)
        # The id is a part of the answer.
        headers = {**self._server.headers, "x-request-id": f"chaos-{number}"}
        url = f"{self._server.url}/v1/chat/completions"
        parts: list[bytes] = []
        try:
            async with session.post(url, json=body, headers=headers) as answer:
                if answer.status != 200:
                    recorded.failure = f"status {answer.status}"
                    return
                last = 0.0
                async for part in answer.content.iter_any():
                    now = time.perf_counter()
                    if parts:
                        recorded.gap_s = max(recorded.gap_s, now - last)
                    else:
                        self._note_begun()
                    last = now
                    parts.append(part)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            recorded.failure = f"{type(error).__name__}: {error}"[:200]
        finally:
            if not parts:
                self._note_begun()
            recorded.body = b"".join(parts)

    def _note_begun(self) -> None:
        self._num_begun += 1
        if self._num_begun == len(self.streams):
            self.has_begun.set()


def num_identical(streams: Sequence[Recorded], undisturbed: Sequence[Recorded]) -> int:
    """Streams that said what they say when nothing happens."""
    return sum(
        one.undated == other.undated for one, other in zip(streams, undisturbed, strict=True)
    )
