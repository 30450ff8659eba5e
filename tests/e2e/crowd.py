"""Clients that ask for one stream after another, each at an endpoint of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp


@dataclass
class Crowd:
    """What such clients saw: whole streams, and of the others what was wrong with each.

    `num_pieces` counts what all streams so far were read in, about a token each; `longest_gap_s` is
    the longest wait between two pieces of a whole stream.
    """

    session: aiohttp.ClientSession
    model: str
    num_tokens: int
    num_pieces: int = 0
    num_whole: int = 0
    longest_gap_s: float = 0.0
    broken: list[str] = field(default_factory=list)
    is_over: bool = False

    async def stay(self, endpoint: str) -> None:
        """Ask again and again until it is over."""
        while not self.is_over:
            await self.ask(endpoint)

    async def ask(self, endpoint: str) -> None:
        """One stream."""
        begun = time.monotonic()
        message = {"role": "user", "content": f"Tell me about ship {time.monotonic_ns()}."}
        length = {"max_tokens": self.num_tokens, "ignore_eos": True}
        body = {"model": self.model, "messages": [message], "stream": True, **length}
        text, gap_s = "", 0.0
        try:
            async with self.session.post(f"{endpoint}/v1/chat/completions", json=body) as answer:
                last = time.monotonic()
                async for piece in answer.content.iter_any():
                    text += piece.decode()
                    self.num_pieces += 1
                    gap_s = max(gap_s, time.monotonic() - last)
                    last = time.monotonic()
                status = answer.status
        except (aiohttp.ClientError, OSError) as error:
            self._blame(endpoint, begun, f"{error!r} after {text.count('data: ')} chunks")
            return
        if status == 200 and text.count('"content"') >= self.num_tokens and "[DONE]" in text:
            self.num_whole += 1
            self.longest_gap_s = max(self.longest_gap_s, gap_s)
        else:
            self._blame(endpoint, begun, f"{status} {text[-300:]}")

    def _blame(self, endpoint: str, begun: float, what: str) -> None:
        self.broken.append(f"{endpoint}, {time.monotonic() - begun:.1f} s after it began: {what}")


@asynccontextmanager
async def crowd(
    endpoints: Sequence[str],
    headers: Mapping[str, str],
    *,
    size_each: int,
    model: str,
    num_tokens: int,
) -> AsyncIterator[Crowd]:
    """So many clients at each endpoint while the context is open, and until their last answers."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
    async with aiohttp.ClientSession(
        headers=headers, connector=connector, timeout=timeout
    ) as session:
        found = Crowd(session, model, num_tokens)
        asking = [
            asyncio.create_task(found.stay(endpoint))
            for endpoint in endpoints
            for _ in range(size_each)
        ]
        try:
            yield found
        finally:
            found.is_over = True
            await asyncio.gather(*asking)
