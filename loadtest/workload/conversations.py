"""A made-up trace of a chat service, as Mooncake's conversation trace shows one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from heapq import heappop, heappush
from itertools import count, islice
from random import Random

from serving.lab.traces import BLOCK_TOKENS, TraceRequest


def generate(limit: int, rng: Random) -> list[TraceRequest]:
    """A chat service as Mooncake's conversation trace shows it: 2.1 new conversations a second, of
    which a quarter go on for some turns with a minute or several in between, and one system prompt.

    Lengths and pauses are log-normal, fitted to the quartiles of that trace.
    """
    names, numbers = count(1), count()
    begun_at_s = 0.0
    coming: list[tuple[float, int, TraceRequest]] = []
    requests: list[TraceRequest] = []
    while len(requests) < limit:
        begun_at_s += rng.expovariate(2.1)
        for request in _conversation(begun_at_s, names, rng):
            heappush(coming, (request.at_s, next(numbers), request))
        while coming and coming[0][0] <= begun_at_s:
            requests.append(heappop(coming)[2])
    first_s = requests[0].at_s
    return [replace(request, at_s=request.at_s - first_s) for request in requests[:limit]]


def _conversation(at_s: float, names: Iterator[int], rng: Random) -> Iterator[TraceRequest]:
    blocks: tuple[int, ...] = (0,)
    num_tokens = rng.lognormvariate(math.log(6300), 1.15)
    while True:
        length = min(max(int(num_tokens), BLOCK_TOKENS + 1), 126_000)
        kept = blocks[: max(length // BLOCK_TOKENS, 1)]
        new = -(-length // BLOCK_TOKENS) - len(kept)
        whole = (*kept, *islice(names, new))
        yield TraceRequest(at_s, length, min(max(int(rng.gauss(350, 210)), 1), 2000), whole)
        if rng.random() > (0.28 if blocks == (0,) else 0.556):
            return
        # The next turn repeats what filled its blocks; the last one was perhaps not full.
        blocks = whole[: length // BLOCK_TOKENS]
        num_tokens = length + rng.lognormvariate(math.log(454), 1.4)
        at_s += rng.lognormvariate(math.log(130), 1.05)
