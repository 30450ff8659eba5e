"""vLLM's KV events: off the wire, checked for gaps, and named as gateways know them.

vLLM's event does not say which of the blocks that it spans are kept: under a sliding window those
that have slid out are left out, their hashes too. So the engine's hashes of all the blocks are made
again here, and the kept ones are found among them. What a hash is made of besides tokens, the salt
above all, may have been on a block that was left out; the replica therefore hands the salt to the
engine a second time, as the request's `session_id`, which is repeated on each of its events.

Source: vllm/distributed/kv_events.py and `cache_full_blocks` in vllm/v1/core/block_pool.py, vLLM
0.32.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import zmq

from serving.core.kv_events import BlockRemoved, BlockStored, CacheCleared, EngineHash, KvEvent
from serving.routing.block_namer import BlockNamer, CacheChange, GroupedNames

HashBlock = Callable[[EngineHash | None, Sequence[int], tuple[Any, ...] | None], EngineHash]
"""The engine's hash of a block: of its parent's hash, `None` for the first, its tokens and keys."""

_MAX_BATCHES = 256
"""Read at once; more wait for the next call, 50 ms later, so that streams are not held up."""

logger = logging.getLogger("ray.serve")


class _Stored(msgspec.Struct, tag="BlockStored"):
    block_hashes: list[bytes | int]
    parent_block_hash: bytes | int | None
    token_ids: list[int]
    block_size: int
    lora_name: str | None = None
    extra_keys: list[list[Any] | None] | None = None
    group_idx: int | None = None
    session_id: str | None = None


class _Removed(msgspec.Struct, tag="BlockRemoved"):
    block_hashes: list[bytes | int]
    group_idx: int | None = None


class _Cleared(msgspec.Struct, tag="AllBlocksCleared"):
    pass


class _Batch(msgspec.Struct, array_like=True):
    """One engine step's events."""

    ts: float
    events: list[_Stored | _Removed | _Cleared]


_decoder = msgspec.msgpack.Decoder(_Batch)


class KvEventFeed:
    """What one engine's prefix cache holds, from its events.

    Args:
        endpoint: where the engine publishes, an address of ZeroMQ.
        namer: gives the names, and remembers what is held.
        hash_block: as the engine does it.
        adapters: paths of LoRA adapters by name, as the engine knows them.

    A lost event cannot be made up for: nothing is taken to be cached from then on but what is told
    anew. `num_gaps` counts that.
    """

    def __init__(
        self,
        endpoint: str,
        namer: BlockNamer,
        hash_block: HashBlock,
        adapters: Mapping[str, str],
    ) -> None:
        self._namer = namer
        self._hash_block = hash_block
        self._adapters = adapters
        self._next_seq = 0
        self.num_gaps = 0
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, 0)  # bounded by who is asked every 50 ms
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(endpoint)
        self._socket.subscribe(b"")

    def changes(self) -> CacheChange:
        """What has changed since the last call."""
        events: list[KvEvent] = []
        for _ in range(_MAX_BATCHES):
            try:
                _topic, seq, payload = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            events += self._read(int.from_bytes(seq, "big"), payload)
        return self._namer.apply(events)

    def held(self) -> GroupedNames:
        """Everything that is cached."""
        return self._namer.held()

    def close(self) -> None:
        """Listen no more."""
        self._context.destroy(linger=0)

    def _read(self, seq: int, payload: bytes) -> list[KvEvent]:
        missing = seq - self._next_seq
        self._next_seq = seq + 1
        found = [event for told in _decoder.decode(payload).events for event in self._event(told)]
        if not missing:
            return found
        self.num_gaps += 1
        logger.warning(
            "%d KV events of the engine were lost; what it has cached is unknown", missing
        )
        return [CacheCleared(), *found]

    def _event(self, told: _Stored | _Removed | _Cleared) -> list[KvEvent]:
        match told:
            case _Removed():
                group = told.group_idx or 0
                return [BlockRemoved(block_hash, group) for block_hash in told.block_hashes]
            case _Cleared():
                return [CacheCleared()]
        if told.block_size != self._namer.hasher.block_size:
            return []  # a part of a block, which no other prompt is looked up by
        event = BlockStored(
            block_hashes=tuple(told.block_hashes),
            parent_hash=told.parent_block_hash,
            token_ids=tuple(told.token_ids),
            lora_name=told.lora_name,
            extra_keys=tuple(
                None if keys is None else tuple(keys) for keys in told.extra_keys or ()
            ),
            group=told.group_idx or 0,
        )
        self._expect(event, cache_salt=told.session_id)
        return [event]

    def _expect(self, event: BlockStored, *, cache_salt: str | None) -> None:
        """Tell the namer the names of all the blocks that the event spans, kept or not."""
        parent = self._namer.parent_of(event, cache_salt=cache_salt)
        if parent is None:
            return
        names = self._namer.hasher.names(np.array(event.token_ids), parent=parent).tolist()
        hashes: Sequence[EngineHash] = event.block_hashes
        if len(hashes) != len(names):
            hashes = self._hashes_of(event, cache_salt)
        self._namer.expect(zip(hashes, names, strict=True))

    def _hashes_of(self, event: BlockStored, cache_salt: str | None) -> list[EngineHash]:
        """The engine's hashes of all the blocks. Source: `generate_block_hash_extra_keys` in
        vllm/v1/core/kv_cache_utils.py."""
        size = self._namer.hasher.block_size
        lora: tuple[Any, ...] = ()
        if event.lora_name is not None:
            lora = (("lora", event.lora_name, self._adapters.get(event.lora_name, "")),)
        parent, hashes = event.parent_hash, []
        for start in range(0, len(event.token_ids), size):
            salt = (("cache_salt", cache_salt),) if parent is None and cache_salt else ()
            tokens = event.token_ids[start : start + size]
            parent = self._hash_block(parent, tokens, (*lora, *salt) or None)
            hashes.append(parent)
        return hashes
