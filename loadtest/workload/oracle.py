"""What a perfect prefix cache would save of a trace."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from serving.lab.traces import BLOCK_TOKENS, TraceRequest


def oracle_hit_ratio(requests: Sequence[TraceRequest], *, capacity_tokens: int) -> float:
    """The share of all prompt tokens that one cache of this size would have saved, least recently
    used blocks first to go, filled as soon as a request arrives. A fleet whose caches hold as much
    in all has the same room, several copies of some blocks, and its blocks later.

    >>> twice = [TraceRequest(at, 1025, 1, (0, 1, 2)) for at in (0.0, 1.0)]
    >>> round(oracle_hit_ratio(twice, capacity_tokens=10_000), 3)
    0.5
    >>> round(oracle_hit_ratio(twice, capacity_tokens=600), 3)
    0.25
    """
    cached: OrderedDict[int, None] = OrderedDict()
    num_hit = 0
    for request in requests:
        blocks = request.blocks or ()
        leading = next((i for i, b in enumerate(blocks) if b not in cached), None)
        num_blocks = len(blocks) if leading is None else leading
        num_hit += min(num_blocks * BLOCK_TOKENS, request.prompt_tokens - 1)
        for block in reversed(blocks):  # the beginning of a prompt is the last to go
            cached[block] = None
            cached.move_to_end(block)
        while len(cached) * BLOCK_TOKENS > capacity_tokens:
            cached.popitem(last=False)
    return num_hit / sum(request.prompt_tokens for request in requests)
