"""Prompts are read beside the event loop, as the engine will read them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from serving.gateway import prompt_reader
from serving.gateway.prompt_reader import PromptReader, Scope
from serving.rendering.tokenizer import Chat, PieceTokenizer
from serving.routing.block_hashing import BlockHasher

HASHER = BlockHasher(b"secret", block_size=4)
CHAT = "/v1/chat/completions"
SCOPE = Scope(lora_name=None, cache_salt="salt")
MESSAGES = [{"role": "user", "content": "Which way does the galerne blow, and for how long?"}]
BODY = json.dumps({"model": "m", "messages": MESSAGES}).encode()


class HeldTokenizer(PieceTokenizer):
    """Renders when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = threading.Event()

    def render(self, chat: Chat) -> list[int]:
        self.may_go_on.wait(30)
        return super().render(chat)


@pytest.fixture
async def reader() -> AsyncIterator[PromptReader]:
    reader = PromptReader(PieceTokenizer(), HASHER)
    yield reader
    reader.close()


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"messages": MESSAGES}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 5}),
        ("/v1/responses", {"input": MESSAGES}),
        ("/v1/responses", {"input": MESSAGES[0]["content"]}),
    ],
)
async def test_every_dialect_gives_the_same_blocks(
    reader: PromptReader, path: str, fields: dict[str, Any]
) -> None:
    body = json.dumps({"model": "m", **fields}).encode()
    blocks = await reader.read(path, body, SCOPE)
    assert blocks is not None
    token_ids = PieceTokenizer().render(Chat(MESSAGES))
    root = HASHER.root(cache_salt="salt")
    assert blocks.num_tokens == len(token_ids)
    assert blocks.names == HASHER.names(np.array(token_ids[:-1]), parent=root).tolist()


@pytest.mark.parametrize(
    ("prompt", "num_tokens"),
    [([1, 2, 3, 4, 5], 5), ([[1, 2, 3], [4]], 3), ("one two", 2), (["one two", "three"], 2)],
)
async def test_the_first_of_several_prompts_counts(
    reader: PromptReader, prompt: Any, num_tokens: int
) -> None:
    body = json.dumps({"model": "m", "prompt": prompt}).encode()
    blocks = await reader.read("/v1/completions", body, SCOPE)
    assert blocks is not None
    assert (blocks.num_tokens, len(blocks.names)) == (num_tokens, (num_tokens - 1) // 4)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, b"{}"),
        (CHAT, b"no json"),
        (
            CHAT,
            b'{"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
        ),
        (CHAT, b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}'),
        ("/v1/completions", b'{"model": "m", "prompt": []}'),
        ("/v1/completions", b'{"model": "m", "prompt": [[]]}'),
        ("/v1/completions", b'{"model": "m", "prompt": [-1]}'),
        ("/v1/embeddings", b'{"model": "m", "input": "x"}'),
    ],
)
async def test_what_cannot_be_read_has_no_blocks(
    reader: PromptReader, path: str, body: bytes
) -> None:
    assert await reader.read(path, body, SCOPE) is None


async def test_scopes_are_apart(reader: PromptReader) -> None:
    scopes = [SCOPE, Scope(None, "other"), Scope("adapter", "salt"), Scope(None, None)]
    found = [await reader.read(CHAT, BODY, scope) for scope in scopes]
    assert len({blocks.names[0] for blocks in found if blocks}) == len(scopes)


async def test_a_slow_reading_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = HeldTokenizer()
    reader = PromptReader(tokenizer, HASHER)
    monkeypatch.setattr(prompt_reader, "_PATIENCE_S", 0.01)
    assert await reader.read(CHAT, BODY, SCOPE) is None
    waiting = [asyncio.create_task(reader.read(CHAT, BODY, SCOPE)) for _ in range(40)]
    assert await asyncio.gather(*waiting) == [None] * 40
    tokenizer.may_go_on.set()
    monkeypatch.setattr(prompt_reader, "_PATIENCE_S", 10)
    while reader._num_waiting:  # noqa: ASYNC110 (a thread's end raises no event here)
        await asyncio.sleep(0.001)
    assert await reader.read(CHAT, BODY, SCOPE) is not None
    reader.close()
