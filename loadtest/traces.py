"""Traces of requests: read, made up, turned into prompts, and what a perfect cache saves of one."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from heapq import heappop, heappush
from itertools import count, groupby, islice
from pathlib import Path
from random import Random

BLOCK_TOKENS = 512
_WORDS = 4096


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request, `at_s` after the first.

    `blocks` names its prompt's blocks of 512 tokens, of which the last may be shorter. Prompts with
    equal leading names have equal leading tokens.
    """

    at_s: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]


def read_trace(path: Path, limit: int) -> list[TraceRequest]:
    """The first `limit` requests of a file in the format of the Mooncake traces.

    Those have one timestamp for each three seconds; what arrived in between is spread evenly.

    Source: kvcache-ai/Mooncake, FAST'25 release.

    Raises:
        ValueError: the file has another format.
    """
    try:
        with path.open() as file:
            rows = [json.loads(line) for line in islice(file, limit)]
        batches = [(at, list(batch)) for at, batch in groupby(rows, key=lambda r: r["timestamp"])]
        ends = [at for at, _ in batches[1:]] + [batches[-1][0] + 1]
        return [
            TraceRequest(
                (at + (end - at) * place / len(batch)) / 1000,
                row["input_length"],
                row["output_length"],
                tuple(row["hash_ids"]),
            )
            for (at, batch), end in zip(batches, ends, strict=True)
            for place, row in enumerate(batch)
        ]
    except (KeyError, IndexError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no trace of Mooncake's format: {error!r}") from error


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


def prompt_of(request: TraceRequest) -> str:
    """A text of as many tokens for a simulated engine without a tokenizer of its own."""
    words = " ".join(map(_text_of, request.blocks)).split(" ", request.input_tokens)
    return " ".join(words[: request.input_tokens])


@lru_cache(maxsize=8192)
def _text_of(block: int) -> str:
    return " ".join(Random(block).choices(_vocabulary(), k=BLOCK_TOKENS))


@lru_cache(maxsize=1)
def _vocabulary() -> Sequence[str]:
    """Words that a simulated engine takes for one token each."""
    rng = Random(0)
    return ["".join(rng.choices("abcdefghiklmnoprstuvw", k=5)) for _ in range(_WORDS)]


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
        leading = next((i for i, b in enumerate(request.blocks) if b not in cached), None)
        num_blocks = len(request.blocks) if leading is None else leading
        num_hit += min(num_blocks * BLOCK_TOKENS, request.input_tokens - 1)
        for block in reversed(request.blocks):  # the beginning of a prompt is the last to go
            cached[block] = None
            cached.move_to_end(block)
        while len(cached) * BLOCK_TOKENS > capacity_tokens:
            cached.popitem(last=False)
    return num_hit / sum(request.input_tokens for request in requests)
