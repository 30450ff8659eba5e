"""Sharing GPUs between models that together want more than there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

_STAY = 1.25
"""A replica that runs counts so much more than one to be started: else two models of equal need
would hand one GPU to and fro, a cold start each time."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a model asks for: `desired` replicas of `gpus` each, of which `held` are its own now.

    `lowest` are its own whatever the others want, `promised` come before what nobody was promised,
    and `kept` before what others want more. `pressure` weighs its need: 1 while its SLO is kept,
    more as its error budget burns.
    """

    desired: int
    lowest: int
    held: int
    gpus: int
    pressure: float = 1.0
    promised: int = 0
    kept: int = 0


def pressure(bad_ratio: float, allowed_ratio: float) -> float:
    """How much a model's need counts when so large a share of its tokens is late, 1 to 10.

    >>> pressure(0.0, 0.01), pressure(0.03, 0.01), pressure(0.9, 0.01)
    (1.0, 3.0, 10.0)
    """
    return min(max(bad_ratio / allowed_ratio, 1.0), 10.0)


def share(claims: Mapping[str, Claim], *, budget: int | None) -> dict[str, int]:
    """Replicas of each model, together of no more than `budget` GPUs.

    First every model has what is its own whatever the others want, then one replica if it needs
    any, then what was promised, then what it keeps. In each round, and with the rest, GPUs go one
    replica at a time to the model whose desire, weighed by pressure, is the least fulfilled: the
    rule by which parliaments share their seats. Models that take no GPU get what they desire.

    Source: Sainte-Laguë's method, with quotients desire / (2 * granted + 1).

    >>> share({"a": Claim(8, 1, 4, 1), "b": Claim(4, 1, 4, 1)}, budget=9)
    {'a': 6, 'b': 3}
    """
    if budget is None:
        return {name: claim.desired for name, claim in claims.items()}
    granted = {
        name: min(claim.lowest, claim.desired) if claim.gpus else claim.desired
        for name, claim in claims.items()
    }
    left = budget - sum(claim.gpus * granted[name] for name, claim in claims.items())
    for most in (
        dict.fromkeys(claims, 1),
        {name: claim.promised for name, claim in claims.items()},
        {name: claim.kept for name, claim in claims.items()},
        {name: claim.desired for name, claim in claims.items()},
    ):
        left = _grant(claims, granted, most, left)
    return granted


def _grant(
    claims: Mapping[str, Claim], granted: dict[str, int], most: Mapping[str, int], left: int
) -> int:
    """Give GPUs of those that are left, up to `most` replicas to each; how many are left then."""
    heap = [(-_quotient(claim, granted[name]), name) for name, claim in claims.items()]
    heapify(heap)
    while heap:
        _, name = heappop(heap)
        claim = claims[name]
        if granted[name] >= min(most[name], claim.desired) or not 0 < claim.gpus <= left:
            continue
        granted[name] += 1
        left -= claim.gpus
        heappush(heap, (-_quotient(claim, granted[name]), name))
    return left


def _quotient(claim: Claim, granted: int) -> float:
    stay = _STAY if granted < claim.held else 1.0
    return stay * claim.pressure * claim.desired / (2 * granted + 1)
