"""Sharing GPUs between models that together want more than there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_STAY = 1.25
"""A replica that runs counts so much more than one to be started: else two models of equal need
would hand one GPU to and fro, a cold start each time."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a model asks for: `desired` replicas of `gpus` each, of which `held` are its own now.

    `lowest` are promised to it. `pressure` weighs its need: 1 while its SLO is kept, more as its
    error budget burns.
    """

    desired: int
    lowest: int
    held: int
    gpus: int
    pressure: float = 1.0


def pressure(bad_ratio: float, allowed_ratio: float) -> float:
    """How much a model's need counts when so large a share of its tokens is late, 1 to 10.

    >>> pressure(0.0, 0.01), pressure(0.03, 0.01), pressure(0.9, 0.01)
    (1.0, 3.0, 10.0)
    """
    return min(max(bad_ratio / allowed_ratio, 1.0), 10.0)


def share(claims: Mapping[str, Claim], *, budget: int | None) -> dict[str, int]:
    """Replicas of each model, together of no more than `budget` GPUs.

    What is promised comes first. Then GPUs go one replica at a time to the model whose desire,
    weighed by pressure, is the least fulfilled: the rule by which parliaments share their seats.
    Models that take no GPU get what they desire.

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
    while candidates := [
        name
        for name, claim in claims.items()
        if granted[name] < claim.desired and 0 < claim.gpus <= left
    ]:
        best = max(candidates, key=lambda name: _quotient(claims[name], granted[name]))
        granted[best] += 1
        left -= claims[best].gpus
    return granted


def _quotient(claim: Claim, granted: int) -> float:
    stay = _STAY if granted < claim.held else 1.0
    return stay * claim.pressure * claim.desired / (2 * granted + 1)
