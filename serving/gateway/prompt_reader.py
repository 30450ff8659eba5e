"""Naming the KV blocks of a prompt beside the event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from serving.rendering.reading import has_prompt, prompt_of
from serving.rendering.tokenizer import Tokenizer
from serving.routing.block_hashing import BlockHasher

_MAX_WAITING = 32
_MAX_BODY_BYTES = 2 * 1024 * 1024
"""Some 500k tokens; more is more than models take."""
_PATIENCE_S = 0.25
"""A prompt of 32k tokens never seen before takes 0.15 s on a slow core; what is known of it next
time is worth finishing, but not worth waiting for."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What keeps equal prompts apart in an engine's cache."""

    lora_name: str | None
    cache_salt: str | None


@dataclass(frozen=True, slots=True)
class PromptBlocks:
    """A prompt's length in tokens and the names of its blocks that a cache could save; the last
    token is computed always, so a block that ends with it is left out."""

    num_tokens: int
    names: list[int]


class PromptReader:
    """Renders and tokenizes prompts as the engine will.

    One thread does it, since tokenizing lets other threads run but the rest does not. What it
    cannot do in time is not waited for: the request is routed by its length alone.

    Args:
        tokenizer: of the model.
        hasher: names blocks as the replicas do.
    """

    def __init__(self, tokenizer: Tokenizer, hasher: BlockHasher) -> None:
        self._tokenizer = tokenizer
        self._hasher = hasher
        self._thread = ThreadPoolExecutor(1, "prompt-reader")
        self._num_waiting = 0

    async def read(self, path: str, body: bytes, scope: Scope) -> PromptBlocks | None:
        """The blocks of the body's prompt, `None` where they cannot be told in time."""
        if not has_prompt(path):
            return None
        if self._num_waiting >= _MAX_WAITING or len(body) > _MAX_BODY_BYTES:
            return None
        self._num_waiting += 1
        reading = asyncio.get_running_loop().run_in_executor(
            self._thread, self._read, path, body, scope
        )
        reading.add_done_callback(self._has_read)
        done, _ = await asyncio.wait({reading}, timeout=_PATIENCE_S)
        if not done:
            return None
        return reading.result()

    def close(self) -> None:
        """Read nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _has_read(self, reading: asyncio.Future[PromptBlocks | None]) -> None:
        self._num_waiting -= 1
        if not reading.cancelled():
            reading.exception()  # seen, should nobody wait any more

    def _read(self, path: str, body: bytes, scope: Scope) -> PromptBlocks | None:
        token_ids = prompt_of(path, body, self._tokenizer)
        if not token_ids:
            return None
        root = self._hasher.root(lora_name=scope.lora_name, cache_salt=scope.cache_salt)
        names = self._hasher.names(np.array(token_ids[:-1]), parent=root)
        return PromptBlocks(len(token_ids), names.tolist())
