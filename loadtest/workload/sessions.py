"""The sessions of one part of a workload, drawn from its seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING

import numpy as np

from loadtest.workload.arrivals import Floats
from loadtest.workload.processes import Replay
from loadtest.workload.request import BLOCK_TOKENS, Session, Turn
from serving.lab.traces import TraceRequest

if TYPE_CHECKING:
    from loadtest.workload.spec import Traffic


@dataclass(frozen=True, slots=True)
class Part:
    """One traffic of a workload, by its name there, and the seed of the whole."""

    name: str
    traffic: Traffic
    seed: int

    def sessions(self, *, duration_s: float, rate_scale: float) -> Iterator[Session]:
        """Sessions in order of arrival, numbered within this part.

        Times and everything else are drawn from streams of their own: the i-th session is the same
        at any rate, and so are all of them whatever other parts the workload has.
        """
        seeds = np.random.SeedSequence(self.seed, spawn_key=tuple(self.name.encode())).spawn(2)
        arriving, drawing = map(np.random.default_rng, seeds)
        arrivals = self.traffic.arrivals
        times_s = arrivals.times(arriving, duration_s=duration_s, rate_scale=rate_scale)
        names = _Names(self.seed, self.name)
        turns = (
            (_traced(request, names) for request in arrivals.trace.requests)
            if isinstance(arrivals, Replay)
            else _drawn(self.traffic, names, drawing)
        )
        return self._begun(times_s, turns, drawing)

    def _begun(
        self, times_s: Floats, turns: Iterator[tuple[Turn, ...]], rng: np.random.Generator
    ) -> Iterator[Session]:
        traffic = self.traffic
        # Times may end before a trace does, and drawn sessions never end: times come first.
        for index, (at_s, of_session) in enumerate(zip(times_s.tolist(), turns, strict=False)):
            is_cancelled = rng.random() < traffic.cancel_ratio
            after_s = traffic.cancel_after_s.draw(rng) if traffic.cancel_after_s else None
            yield Session(index, at_s, self.name, of_session, after_s if is_cancelled else None)


class _Names:
    """Names of prompt blocks that no other part of the workload has, nor one of another seed."""

    def __init__(self, seed: int, name: str) -> None:
        digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=4).digest()
        self._numbers = count(int.from_bytes(digest) >> 1 << 32)
        self._known: dict[int, int] = {}

    def of_tokens(self, num_tokens: int) -> tuple[int, ...]:
        """New names for a text of so many tokens."""
        return tuple(islice(self._numbers, -(-num_tokens // BLOCK_TOKENS)))

    def of_trace(self, blocks: tuple[int, ...]) -> tuple[int, ...]:
        """Names that are equal where those of the trace are."""
        known, numbers = self._known, self._numbers
        return tuple(known[b] if b in known else known.setdefault(b, next(numbers)) for b in blocks)


def _traced(request: TraceRequest, names: _Names) -> tuple[Turn, ...]:
    known = request.blocks
    blocks = names.of_tokens(request.prompt_tokens) if known is None else names.of_trace(known)
    return (Turn(request.prompt_tokens, request.output_tokens, blocks),)


def _drawn(traffic: Traffic, names: _Names, rng: np.random.Generator) -> Iterator[tuple[Turn, ...]]:
    """Without end."""
    shared_tokens = traffic.shared_prefix_tokens
    prefixes = [names.of_tokens(shared_tokens) for _ in range(traffic.num_shared_prefixes)]
    while True:
        prefix = prefixes[rng.integers(len(prefixes))]
        first = _turn(traffic, names, rng)
        begun = Turn(
            shared_tokens + first.prompt_tokens, first.output_tokens, prefix + first.blocks
        )
        num_turns = traffic.turns.draw_int(rng)
        later = (
            _turn(traffic, names, rng, think_s=traffic.think_s.draw(rng))
            for _ in range(num_turns - 1)
        )
        yield (begun, *later)


def _turn(
    traffic: Traffic, names: _Names, rng: np.random.Generator, *, think_s: float = 0.0
) -> Turn:
    assert traffic.prompt_tokens is not None
    assert traffic.output_tokens is not None
    prompt_tokens = traffic.prompt_tokens.draw_int(rng)
    output_tokens = traffic.output_tokens.draw_int(rng)
    return Turn(prompt_tokens, output_tokens, names.of_tokens(prompt_tokens), think_s)
