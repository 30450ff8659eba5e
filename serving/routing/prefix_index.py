"""Which replica has which blocks in its prefix cache, and how much of a prompt that saves it.

Fed by the engines' KV events, or, for engines that publish none, by what has been routed to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from serving.core.types import ReplicaId

_SLOTS = 64
"""Replicas per shard: a block's holders are the bits of one 64-bit number."""


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """KV-cache layers that keep the same blocks.

    `window_blocks` is how many blocks before a token its attention reaches,
    ceil((sliding_window - 1) / block_size), or `None` for full attention.
    """

    window_blocks: int | None = None

    def longest_hit(self, present: int, limit: int) -> int:
        """Blocks of a prompt that need no computing, at most `limit`.

        Args:
            present: a bit for each block of the prompt that is cached, the first block's lowest.

        Full attention needs an unbroken chain from the first block. Under a sliding window the last
        blocks of the hit are enough, so the longest hit that ends with a whole window counts; a
        shorter one must begin with the first block.

        Source: `FullAttentionManager` and `SlidingWindowManager.find_longest_cache_hit` in
            vllm/v1/core/single_type_kv_cache_manager.py, vLLM 0.32.

        >>> CacheGroup().longest_hit(0b1011, limit=4)
        2
        >>> CacheGroup(window_blocks=2).longest_hit(0b110100, limit=6)  # blocks 4 and 5
        6
        >>> CacheGroup(window_blocks=2).longest_hit(0b110101, limit=5)  # 4 alone is no window
        1
        """
        present &= (1 << limit) - 1
        if self.window_blocks is not None:
            ends = _run_starts(present, self.window_blocks)
            if ends:
                return ends.bit_length() - 1 + self.window_blocks
        return _trailing_ones(present)


def longest_common_hit(
    groups: Sequence[CacheGroup], present: Sequence[int], num_blocks: int
) -> int:
    """Blocks that no group has to compute: a hybrid model hits what all of its groups hit.

    Args:
        groups: of the model.
        present: per group, as `CacheGroup.longest_hit` takes it.
        num_blocks: of the prompt.

    Source: `HybridKVCacheCoordinator.find_longest_cache_hit` in
        vllm/v1/core/kv_cache_coordinator.py, vLLM 0.32: groups shorten the hit until none does.

    >>> longest_common_hit([CacheGroup(), CacheGroup(2)], [0b0111, 0b1101], 4)  # 3 no, 2 no, 1 yes
    1
    """
    hit = num_blocks
    while True:
        shortest = hit
        for group, blocks in zip(groups, present, strict=True):
            shortest = group.longest_hit(blocks, shortest)
        if shortest == hit:
            return hit
        hit = shortest


_ONE_CHAIN = (CacheGroup(),)
"""Full attention alone, where a hit ends with the first block that is missing."""


@dataclass(slots=True)
class _Shard:
    """Up to 64 replicas and the blocks they hold, per cache group."""

    replicas: list[ReplicaId | None] = field(default_factory=lambda: [None] * _SLOTS)
    holders: list[dict[int, int]] = field(default_factory=list)
    """Per group: for each block, a bit per slot."""


@dataclass(slots=True)
class _Place:
    """Where a replica's blocks are."""

    shard: _Shard
    slot: int
    blocks: list[dict[int, None]]
    """Per group, oldest first."""

    @property
    def num_blocks(self) -> int:
        return sum(map(len, self.blocks))


class PrefixIndex:
    """The cached blocks of one model's replicas.

    Args:
        groups: the model's KV-cache groups.
        max_entries: blocks kept in all, each counted once per replica and group that holds it. The
            replica with most of them forgets its oldest when there are more.

    A lookup is O(blocks of the prompt + replicas), a store O(blocks).

    >>> index = PrefixIndex([CacheGroup()], max_entries=1000)
    >>> index.store(ReplicaId("a"), [11, 12, 13])
    >>> index.store(ReplicaId("b"), [11])
    >>> prompt = [11, 12, 99]
    >>> sorted(index.hits(prompt).items())
    [('a', 2), ('b', 1)]
    >>> index.remove(ReplicaId("a"), [12])
    >>> sorted(index.hits(prompt).items())
    [('a', 1), ('b', 1)]
    """

    def __init__(self, groups: Sequence[CacheGroup], *, max_entries: int) -> None:
        self._groups = tuple(groups)
        self._max_entries = max_entries
        self._shards: list[_Shard] = []
        self._places: dict[ReplicaId, _Place] = {}
        self.num_entries = 0

    def num_blocks(self, replica: ReplicaId) -> int:
        """Blocks known to be cached on the replica."""
        place = self._places.get(replica)
        return place.num_blocks if place else 0

    def store(self, replica: ReplicaId, names: Iterable[int], *, group: int = 0) -> None:
        """The replica has these blocks; they are its newest, those it had before too."""
        place = self._places.get(replica) or self._admit(replica)
        blocks, holders, bit = place.blocks[group], place.shard.holders[group], 1 << place.slot
        before = len(blocks)
        for name in names:
            blocks.pop(name, None)
            blocks[name] = None
            holders[name] = holders.get(name, 0) | bit
        self.num_entries += len(blocks) - before
        if self.num_entries > self._max_entries:
            self._shrink()

    def remove(self, replica: ReplicaId, names: Iterable[int], *, group: int = 0) -> None:
        """The replica has these blocks no more."""
        place = self._places.get(replica)
        if place is None:
            return
        blocks = place.blocks[group]
        self._drop(place, group, [name for name in dict.fromkeys(names) if name in blocks])

    def replace(self, replica: ReplicaId, names: Mapping[int, Iterable[int]]) -> None:
        """The replica has exactly these blocks, by group."""
        self.forget(replica)
        for group, blocks in names.items():
            self.store(replica, blocks, group=group)

    def forget(self, replica: ReplicaId) -> None:
        """Nothing is known of the replica."""
        place = self._places.pop(replica, None)
        if place is None:
            return
        for group, blocks in enumerate(place.blocks):
            self._drop(place, group, list(blocks))
        place.shard.replicas[place.slot] = None

    def hits(self, names: Sequence[int]) -> dict[ReplicaId, int]:
        """Leading blocks of a prompt that each replica would not compute, for those above 0.

        Args:
            names: of the prompt's full blocks, without the last one if it ends the prompt: engines
                compute at least one token.
        """
        found: dict[ReplicaId, int] = {}
        for shard in self._shards:
            if self._groups == _ONE_CHAIN:
                for slot, hit in _chains(names, shard.holders[0]):
                    if (replica := shard.replicas[slot]) is not None:
                        found[replica] = hit
                continue
            present = [_blocks_by_slot(names, holders) for holders in shard.holders]
            for slot, replica in enumerate(shard.replicas):
                if replica is None or not present[0][slot]:
                    continue
                blocks = [by_slot[slot] for by_slot in present]
                if hit := longest_common_hit(self._groups, blocks, len(names)):
                    found[replica] = hit
        return found

    def _admit(self, replica: ReplicaId) -> _Place:
        shard = next((shard for shard in self._shards if None in shard.replicas), None)
        if shard is None:
            shard = _Shard(holders=[{} for _ in self._groups])
            self._shards.append(shard)
        slot = shard.replicas.index(None)
        shard.replicas[slot] = replica
        place = self._places[replica] = _Place(shard, slot, [{} for _ in self._groups])
        return place

    def _shrink(self) -> None:
        """Forget a little more than there is too much, so that this stays rare."""
        while self.num_entries > self._max_entries:
            place = max(self._places.values(), key=lambda place: place.num_blocks)
            group = max(range(len(place.blocks)), key=lambda group: len(place.blocks[group]))
            blocks = place.blocks[group]
            number = max(len(blocks) // 16, 1)
            self._drop(place, group, list(islice(blocks, number)))

    def _drop(self, place: _Place, group: int, names: Sequence[int]) -> None:
        """Of blocks that are there."""
        blocks, holders, bit = place.blocks[group], place.shard.holders[group], 1 << place.slot
        for name in names:
            del blocks[name]
            left = holders[name] & ~bit
            if left:
                holders[name] = left
            else:
                del holders[name]
        self.num_entries -= len(names)


def _chains(names: Sequence[int], holders: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """For each slot that holds any, how many leading blocks it holds.

    >>> list(_chains([7, 8, 9], {7: 0b11, 8: 0b10}))
    [(0, 1), (1, 2)]
    """
    held = -1
    for length, name in enumerate(names):
        still = held & holders.get(name, 0)
        if still != held:
            if length:
                yield from ((slot, length) for slot in _set_bits(held & ~still))
            held = still
            if not held:
                return
    if held > 0:
        yield from ((slot, len(names)) for slot in _set_bits(held))


def _set_bits(bits: int) -> Iterator[int]:
    """
    >>> list(_set_bits(0b1010))
    [1, 3]
    """
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def _blocks_by_slot(names: Sequence[int], holders: Mapping[int, int]) -> list[int]:
    """For each slot the blocks it holds, as bits, the first block's lowest."""
    masks = np.array([holders.get(name, 0) for name in names], dtype="<u8")
    if not masks.any():
        return [0] * _SLOTS
    by_block = np.unpackbits(masks.view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    # The copy is worth it: packing along a strided axis takes five times as long.
    by_slot = np.packbits(np.ascontiguousarray(by_block.T), axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in by_slot]


def _run_starts(bits: int, length: int) -> int:
    """A bit where a run of `length` set bits begins, by doubling: O(log length) big-number steps.

    >>> bin(_run_starts(0b1110110, 2))
    '0b110010'
    """
    have = 1
    while have < length and bits:
        step = min(have, length - have)
        bits &= bits >> step
        have += step
    return bits


def _trailing_ones(bits: int) -> int:
    """
    >>> _trailing_ones(0b10111), _trailing_ones(0)
    (3, 0)
    """
    return ((bits + 1) & ~bits).bit_length() - 1
