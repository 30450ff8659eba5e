"""vLLM's KV events as they come over a real socket: named, also those that leave blocks out."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq

from serving.core.kv_events import EngineHash
from serving.engine.kv_event_feed import KvEventFeed
from serving.routing.block_hashing import BlockHasher
from serving.routing.block_namer import BlockNamer, CacheChange

BLOCK_SIZE = 4
HASHER = BlockHasher(b"secret", block_size=BLOCK_SIZE)
ADAPTERS = {"sql": "/adapters/sql"}


def hash_block(
    parent: EngineHash | None, tokens: Sequence[int], keys: tuple[Any, ...] | None
) -> bytes:
    return hashlib.sha256(repr((parent, tuple(tokens), keys)).encode()).digest()


def chain(tokens: Sequence[int], salt: str | None = None, lora: str | None = None) -> list[bytes]:
    """The engine's hashes of a prompt's full blocks."""
    hashes: list[bytes] = []
    parent: bytes | None = None
    for start in range(0, len(tokens) // BLOCK_SIZE * BLOCK_SIZE, BLOCK_SIZE):
        keys: tuple[Any, ...] = () if lora is None else (("lora", lora, ADAPTERS[lora]),)
        keys += (("cache_salt", salt),) if salt and parent is None else ()
        parent = hash_block(parent, tokens[start : start + BLOCK_SIZE], keys or None)
        hashes.append(parent)
    return hashes


def names(tokens: Sequence[int], salt: str | None = None, lora: str | None = None) -> list[int]:
    root = HASHER.root(cache_salt=salt, lora_name=lora)
    named: list[int] = HASHER.names(np.array(tokens), parent=root).tolist()
    return named


class Engine:
    """Publishes events as vLLM does."""

    def __init__(self, endpoint: str) -> None:
        self.seq = 0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.bind(endpoint)

    def wait_for_subscriber(self) -> None:
        assert self._socket.recv() == b"\x01"

    def tell(self, *events: dict[str, Any]) -> None:
        payload = msgspec.msgpack.encode([1.5, events, 0])
        self._socket.send_multipart([b"", self.seq.to_bytes(8, "big"), payload])
        self.seq += 1

    def stored(
        self,
        tokens: Sequence[int],
        kept: range,
        *,
        first: int = 0,
        salt: str | None = None,
        lora: str | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """Blocks from number `first` on have filled, and those in `kept` stay."""
        hashes = chain(tokens, salt, lora)
        keys = [([lora] if lora else []) + ([salt] if salt and not i else []) for i in kept]
        return {
            "type": "BlockStored",
            "block_hashes": [hashes[i] for i in kept],
            "parent_block_hash": hashes[first - 1] if first else None,
            "token_ids": list(tokens[first * BLOCK_SIZE : len(hashes) * BLOCK_SIZE]),
            "block_size": BLOCK_SIZE,
            "lora_id": None,
            "medium": "GPU",
            "lora_name": lora,
            "extra_keys": [key or None for key in keys],
            "group_idx": 0,
            "kv_cache_spec_kind": "sliding_window",
            "session_id": salt,
            **fields,
        }

    def removed(self, *hashes: bytes) -> dict[str, Any]:
        return {"type": "BlockRemoved", "block_hashes": list(hashes), "medium": "GPU"}

    def close(self) -> None:
        self._context.destroy(linger=0)


@pytest.fixture
def endpoint() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        yield f"ipc://{Path(folder) / 'events'}"


@pytest.fixture
def engine(endpoint: str) -> Iterator[Engine]:
    engine = Engine(endpoint)
    yield engine
    engine.close()


@pytest.fixture
def feed(engine: Engine, endpoint: str) -> Iterator[KvEventFeed]:
    feed = KvEventFeed(endpoint, BlockNamer(HASHER, max_expected=1000), hash_block, ADAPTERS)
    engine.wait_for_subscriber()
    yield feed
    feed.close()


def change(feed: KvEventFeed) -> CacheChange:
    """The next change; it is on its way."""
    assert feed._socket.poll(5000)
    return feed.changes()


PROMPT = list(range(100, 122))


@pytest.mark.parametrize("salt", [None, "salt"])
@pytest.mark.parametrize("lora", [None, "sql"])
@pytest.mark.parametrize("kept", [range(5), range(2, 5), range(4, 5)])
def test_kept_blocks_get_their_names(
    engine: Engine, feed: KvEventFeed, kept: range, lora: str | None, salt: str | None
) -> None:
    engine.tell(engine.stored(PROMPT, kept, salt=salt, lora=lora))
    assert change(feed) == CacheChange({0: [names(PROMPT, salt, lora)[i] for i in kept]}, {})
    assert feed.held() == {0: [names(PROMPT, salt, lora)[i] for i in kept]}


def test_a_prompt_goes_on_after_blocks_that_were_not_kept(
    engine: Engine, feed: KvEventFeed
) -> None:
    longer = [*PROMPT, *range(300, 320)]
    engine.tell(engine.stored(PROMPT[:8], range(0), salt="s"))
    engine.tell(engine.stored(longer, range(8, 10), first=2, salt="s"))
    found = change(feed)
    while not found:
        found = change(feed)
    assert found.stored == {0: names(longer, "s")[8:10]}


def test_removed_blocks_go(engine: Engine, feed: KvEventFeed) -> None:
    engine.tell(engine.stored(PROMPT, range(3, 5), salt="s"))
    assert change(feed).stored
    engine.tell(engine.removed(chain(PROMPT, "s")[3]), {"type": "AllBlocksCleared"})
    found = change(feed)
    assert found.is_cleared
    assert feed.held() == {}


def test_a_lost_event_makes_all_unknown(engine: Engine, feed: KvEventFeed) -> None:
    engine.tell(engine.stored(PROMPT, range(5)))
    change(feed)
    engine.seq += 2
    other = list(range(200, 208))
    engine.tell(engine.stored(other, range(2)))
    assert change(feed) == CacheChange({0: names(other)}, {}, is_cleared=True)
    assert feed.num_gaps == 1


def test_images_and_parts_of_blocks_have_no_names(engine: Engine, feed: KvEventFeed) -> None:
    image = engine.stored(PROMPT, range(5), extra_keys=[[["image", 0]], None, None, None, None])
    part = engine.stored(PROMPT, range(5), block_size=2)
    engine.tell(image, part)
    assert change(feed) == CacheChange({}, {})


def test_unknown_fields_and_groups_pass(engine: Engine, feed: KvEventFeed) -> None:
    engine.tell(engine.stored(PROMPT, range(5), group_idx=1, of_a_later_release=[1]))
    assert change(feed).stored == {1: names(PROMPT)}
