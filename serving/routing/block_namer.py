"""Giving the blocks of an engine's KV events the names that gateways know them by.

An event tells the tokens of its blocks and the engine's hash of the block before them. That is
enough for full attention, where that block is always known. Under a sliding window most blocks are
never kept, so the chain is broken: there the names come from the prompts themselves, which pass
through this process (`expect`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np

from serving.core.kv_events import BlockRemoved, BlockStored, CacheCleared, EngineHash, KvEvent
from serving.routing.block_hashing import BlockHasher

GroupedNames = dict[int, list[int]]
"""Names by KV-cache group."""


@dataclass(frozen=True, slots=True)
class CacheChange:
    """Blocks that are there now and blocks that are not; no name is in both.

    `is_cleared`: whatever is not in `stored` is gone.
    """

    stored: GroupedNames
    removed: GroupedNames
    is_cleared: bool = False

    def __bool__(self) -> bool:
        return bool(self.stored or self.removed or self.is_cleared)


NO_CHANGE = CacheChange({}, {})


@dataclass(slots=True)
class _Held:
    """A block's name, and how many copies the engine holds: it does not merge equal blocks."""

    name: int
    num_copies: int


class BlockNamer:
    """What one engine's prefix cache holds, by name.

    Args:
        hasher: names blocks.
        max_expected: pairs of `expect` that are remembered; the oldest go first.

    `num_unnamed` counts stored blocks whose name could not be told.

    >>> from serving.core.kv_events import BlockStored
    >>> namer = BlockNamer(BlockHasher(b"secret", block_size=2), max_expected=10)
    >>> event = BlockStored((b"h1", b"h2"), None, (1, 2, 3, 4), None, (None, None))
    >>> change = namer.apply([event])
    >>> len(change.stored[0]), namer.num_unnamed
    (2, 0)
    """

    def __init__(self, hasher: BlockHasher, *, max_expected: int) -> None:
        self.hasher = hasher
        self._max_expected = max_expected
        self._expected: dict[EngineHash, int] = {}
        self._held: dict[int, dict[EngineHash, _Held]] = {}
        self.num_unnamed = 0

    def expect(self, pairs: Iterable[tuple[EngineHash, int]]) -> None:
        """Blocks of a prompt that is about to run, by the engine's hash and by name."""
        for engine_hash, name in pairs:
            self._expected.pop(engine_hash, None)
            self._expected[engine_hash] = name
        too_many = len(self._expected) - self._max_expected
        for engine_hash in list(islice(self._expected, max(too_many, 0))):
            del self._expected[engine_hash]

    def apply(self, events: Iterable[KvEvent]) -> CacheChange:
        """What the events change, summed up."""
        is_there: dict[int, dict[int, bool]] = {}
        is_cleared = False
        for event in events:
            match event:
                case BlockStored():
                    names = self._store(event)
                    is_there.setdefault(event.group, {}).update(dict.fromkeys(names, True))
                case BlockRemoved():
                    if (name := self._remove(event)) is not None:
                        is_there.setdefault(event.group, {})[name] = False
                case CacheCleared():
                    self._held.clear()
                    is_there.clear()
                    is_cleared = True
        return CacheChange(
            stored=_names_that_are(True, is_there),
            removed={} if is_cleared else _names_that_are(False, is_there),
            is_cleared=is_cleared,
        )

    def held(self) -> GroupedNames:
        """Every block, oldest first."""
        return {
            group: list(dict.fromkeys(block.name for block in blocks.values()))
            for group, blocks in self._held.items()
        }

    def _store(self, event: BlockStored) -> list[int]:
        """The names of the blocks that could be named."""
        held = self._held.setdefault(event.group, {})
        names: list[int] = []
        for engine_hash, name in zip(event.block_hashes, self._names_of(event), strict=True):
            if (block := held.get(engine_hash)) is not None:
                block.num_copies += 1
            elif name is None:
                self.num_unnamed += 1
            else:
                held[engine_hash] = _Held(name, num_copies=1)
                names.append(name)
        return names

    def _remove(self, event: BlockRemoved) -> int | None:
        """The block's name if that was its last copy."""
        held = self._held.get(event.group, {})
        block = held.get(event.block_hash)
        if block is None:
            return None  # it could not be named
        block.num_copies -= 1
        if block.num_copies:
            return None
        del held[event.block_hash]
        return block.name

    def _names_of(self, event: BlockStored) -> list[int | None]:
        """A name for each hash, as far as it can be told."""
        expected = [self._expected.get(engine_hash) for engine_hash in event.block_hashes]
        num_blocks = len(event.token_ids) // self.hasher.block_size
        parent = self.parent_of(event, cache_salt=_salt_of(event))
        if None not in expected or parent is None or len(expected) != num_blocks:
            return list(expected)
        chain: list[int | None] = []
        chain.extend(self.hasher.names(np.array(event.token_ids), parent=parent).tolist())
        return chain

    def parent_of(self, event: BlockStored, *, cache_salt: str | None) -> int | None:
        """The name of the block before the event's first one, `None` where it cannot be told.

        Args:
            cache_salt: of the request that the event is about.
        """
        if any(_holds_more_than_tokens(keys, event.lora_name) for keys in event.extra_keys):
            return None  # images are not part of a name
        if event.parent_hash is None:
            return self.hasher.root(lora_name=event.lora_name, cache_salt=cache_salt)
        block = self._held.get(event.group, {}).get(event.parent_hash)
        return block.name if block else self._expected.get(event.parent_hash)


def _salt_of(event: BlockStored) -> str | None:
    """The salt, which is among the keys of a prompt's first block if that block is kept."""
    keys = event.extra_keys[0] if event.extra_keys else None
    salt = next((key for key in keys or () if key != event.lora_name), None)
    return None if salt is None else str(salt)


def _holds_more_than_tokens(keys: tuple[object, ...] | None, lora_name: str | None) -> bool:
    """Whether a block's content is more than its tokens, adapter and salt.

    >>> _holds_more_than_tokens(("adapter", "salt"), "adapter")
    False
    >>> _holds_more_than_tokens((("image", 0),), None)
    True
    """
    strange = [key for key in keys or () if key != lora_name]
    return len(strange) > 1 or any(not isinstance(key, str) for key in strange)


def _names_that_are(state: bool, is_there: Mapping[int, Mapping[int, bool]]) -> GroupedNames:
    grouped = {
        group: [name for name, there in names.items() if there is state]
        for group, names in is_there.items()
    }
    return {group: names for group, names in grouped.items() if names}
