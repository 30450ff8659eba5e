"""What was routed to a replica lately: stands in for the KV events of engines that tell none."""

from __future__ import annotations

import base64
import binascii
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from serving.routing.block_namer import NO_CHANGE, CacheChange, GroupedNames

PART_TOKENS = 128
"""Prompts are named in parts of so many tokens: coarser than KV blocks, so that the names of a
prompt fit into a header. What a prompt shares beyond its last whole part is not known."""

ROUTED_GROUP = -1
"""Stands where a KV-cache group does in what a replica tells."""


class RoutedPrefixes:
    """The parts of the prompts that this replica had lately, in the order an engine forgets them.

    Every gateway sends the names with its requests, and the replica tells all of them.

    Args:
        max_names: parts that the engine's KV cache holds.

    >>> routed = RoutedPrefixes(max_names=3)
    >>> routed.record(pack_header([1, 2]))
    >>> routed.change().stored
    {-1: [2, 1]}
    >>> routed.record(pack_header([1, 3, 4]))  # the end of the older prompt has to go
    >>> change = routed.change()
    >>> change.stored, change.removed
    ({-1: [4, 3]}, {-1: [2]})
    """

    def __init__(self, max_names: int) -> None:
        self._max_names = max_names
        self._names: OrderedDict[int, None] = OrderedDict()  # the next to go first
        self._changed: dict[int, None] = {}

    def record(self, header: bytes) -> None:
        """A request with these names has come; what is no list of names tells nothing."""
        for name in reversed(unpack_header(header)):  # the beginning of a prompt is the last to go
            if name not in self._names:
                self._changed[name] = None
            self._names[name] = None
            self._names.move_to_end(name)
        while len(self._names) > self._max_names:
            gone, _ = self._names.popitem(last=False)
            self._changed[gone] = None

    def change(self) -> CacheChange:
        """What has changed since the last call."""
        if not self._changed:
            return NO_CHANGE
        changed, self._changed = self._changed, {}
        stored = [name for name in changed if name in self._names]
        removed = [name for name in changed if name not in self._names]
        return CacheChange(_grouped(stored), _grouped(removed))

    def held(self) -> GroupedNames:
        """All of them."""
        return _grouped(list(self._names))


def pack_header(names: Sequence[int]) -> bytes:
    """Names as a header's value.

    >>> unpack_header(pack_header([1, 2**64 - 1]))
    [1, 18446744073709551615]
    """
    return base64.b64encode(np.array(names, dtype="<u8").tobytes())


def unpack_header(value: bytes) -> list[int]:
    """What `pack_header` was given, or nothing if it was not."""
    try:
        names: list[int] = np.frombuffer(base64.b64decode(value), dtype="<u8").tolist()
    except (binascii.Error, ValueError):
        return []
    return names


def _grouped(names: list[int]) -> GroupedNames:
    return {ROUTED_GROUP: names} if names else {}
