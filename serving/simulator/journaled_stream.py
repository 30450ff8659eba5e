"""The deltas of one answer, noted on their way, behind those that another engine has sent.

Made-up answers are the same in every engine, so to continue one is to pass over its beginning.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from serving.protocol.journal import Journal, Output
from serving.protocol.usage import current_usage
from serving.simulator.generation import CacheUse, Delta, TokenStream
from serving.simulator.reply import Reply
from serving.simulator.service import Generation

_REPLAYED_AT_ONCE = 32
"""So that other streams, and their heartbeats, go on meanwhile."""


class JournaledStream:
    """One streamed answer.

    Args:
        journal: of its request, if it has one.
    """

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal
        self._is_noted = False

    def start(self, generation: Generation) -> tuple[TokenStream, Reply]:
        """Begin to generate, or go on.

        Raises:
            RequestRefused: the prompt cannot be answered, or the engine died.
        """
        journal = self._journal
        if journal is None:
            return generation.start(0)
        # Of a complete answer only the last bytes are wanted, but they take a stream to tell of.
        num_emitted = len(journal.token_ids) - journal.is_finished
        if journal.is_finished:
            current_usage.set(None)  # its last token was counted where it was generated
        stream, reply = generation.start(num_emitted)
        self._is_noted = journal.begin(can_resume=len(stream.request_ids) == 1)
        return stream, reply

    async def read(self, stream: TokenStream) -> AsyncIterator[Sequence[Delta]]:
        """The answer's deltas as they come, at least one at a time.

        Raises:
            Exception: what the stream was told to fail with.
        """
        journal = self._journal
        if journal is None or not self._is_noted:
            while not stream.is_finished:
                yield await stream.read()
            return
        is_first = True
        for number, output in enumerate(journal.replay(), 1):
            if number % _REPLAYED_AT_ONCE == 0:
                await asyncio.sleep(0)
            if is_first:
                stream.cache_uses[0] = CacheUse(
                    output.num_cached_tokens or 0, output.num_created_tokens or 0
                )
                is_first = False
            yield [_delta(output)]
        if journal.is_finished:
            return
        while not stream.is_finished:
            deltas = await stream.read()
            for delta in deltas:
                journal.note(_noted(delta, stream.cache_uses[0] if is_first else None))
                is_first = False
            yield deltas

    def give_up(self) -> None:
        """The engine is gone: let another one finish the answer."""
        if self._journal is not None:
            self._journal.is_lost = True


def _delta(output: Output) -> Delta:
    (token_id,) = output.token_ids
    return Delta(0, output.text, token_id, output.finish_reason, output.stop_reason)


def _noted(delta: Delta, use: CacheUse | None) -> Output:
    cached, created = use or (None, None)
    return Output(
        (delta.token_id,), delta.text, delta.finish_reason, delta.stop_reason, cached, created
    )
