"""The blocks of one KV cache: how many sequences use each, what it holds, which is reused next."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from serving.core.kv_events import BlockRemoved, KvEvent

NULL_BLOCK = 0
"""Stands in block tables for blocks that slid out of the window; never allocated, never freed."""


class BlockPool:
    """Blocks `1` to `num_blocks - 1`, each in use, or free and still holding its tokens.

    Free blocks are reused from the front of one queue: first those that hold nothing reusable, the
    last freed first; then hashed ones, the longest free first.

    Source: vllm/v1/core/block_pool.py, vLLM 0.32.

    >>> pool = BlockPool(4, events=None)
    >>> pool.take(3)
    [1, 2, 3]
    >>> pool.store(2, b"hash")
    >>> pool.give_back([3, 2, 1])
    >>> pool.take(2), pool.find(b"hash")
    ([3, 1], 2)
    """

    def __init__(self, num_blocks: int, *, events: list[KvEvent] | None) -> None:
        """All blocks free and empty.

        Args:
            num_blocks: including the null block, at least 2.
            events: where evictions are noted, if anywhere.
        """
        self.num_usable = num_blocks - 1
        self._events = events
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, num_blocks))
        self._num_users = array("i", bytes(array("i").itemsize * num_blocks))
        self._hash_of: dict[int, bytes] = {}
        # Equal blocks are not merged, or block tables would change under running requests. Nearly
        # always there is one; the oldest is the one that is hit.
        self._blocks_of: dict[bytes, tuple[int, ...]] = {}

    @property
    def num_free(self) -> int:
        """Blocks that can be taken now, including those a prompt could still hit."""
        return len(self._free)

    @property
    def free_blocks(self) -> list[int]:
        """Free blocks in the order in which they will be reused."""
        return list(self._free)

    def find(self, block_hash: bytes) -> int | None:
        """A block that holds these tokens, in use or free."""
        blocks = self._blocks_of.get(block_hash)
        return blocks[0] if blocks else None

    def count_free(self, blocks: Iterable[int]) -> int:
        """How many of `blocks` would leave the free queue if they were shared."""
        return sum(not self._num_users[block] and block != NULL_BLOCK for block in blocks)

    def take(self, num_blocks: int) -> list[int]:
        """Blocks for new tokens; what they held is forgotten. At most `num_free`."""
        blocks = [self._free.popitem(last=False)[0] for _ in range(num_blocks)]
        for block in blocks:
            self._num_users[block] = 1
            if block in self._hash_of:
                self._evict(block)
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """One more sequence uses `blocks`, none of which is the null block."""
        for block in blocks:
            if not self._num_users[block]:
                del self._free[block]
            self._num_users[block] += 1

    def give_back(self, blocks: Sequence[int]) -> None:
        """One sequence fewer uses `blocks`; the first of them is to be reused first.

        Null blocks are left out.
        """
        unused = [block for block in blocks if block != NULL_BLOCK and self._drop_user(block)]
        for block in reversed(unused):
            if block not in self._hash_of:
                self._free[block] = None
                self._free.move_to_end(block, last=False)
        self._free.update((block, None) for block in unused if block in self._hash_of)

    def store(self, block: int, block_hash: bytes) -> None:
        """`block`, full and in use, can be found by its hash from now on."""
        self._hash_of[block] = block_hash
        self._blocks_of[block_hash] = (*self._blocks_of.get(block_hash, ()), block)

    def _drop_user(self, block: int) -> bool:
        self._num_users[block] -= 1
        return not self._num_users[block]

    def _evict(self, block: int) -> None:
        block_hash = self._hash_of.pop(block)
        others = tuple(other for other in self._blocks_of.pop(block_hash) if other != block)
        if others:
            self._blocks_of[block_hash] = others
        if self._events is not None:
            self._events.append(BlockRemoved(block_hash))
