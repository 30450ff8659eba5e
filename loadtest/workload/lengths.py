"""Distributions of lengths, pauses and numbers of turns, and the short texts that name them.

    512                          always 512
    uniform:100:1000             every value from 100 to 1000 is as likely
    normal:500:100               mean and standard deviation
    lognormal:512:0.8            median, and standard deviation of the logarithm
    choice:128=3,512=1           values with their weights; without weights they are as likely
    choice:0-100=0.2,100-900=0.8 ranges with their weights: a histogram
    lognormal:512:0.8:min=16:max=4000   what lies beyond is moved to the bound

No value is below 0 or above ten million, with bounds of its own or without.

Source: the log-normal's parameters are those of its definition, exp(N(ln median, sigma²)).
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, PlainSerializer

Draw = Callable[[np.random.Generator], float]

_GREATEST = 10_000_000.0
"""Of all values: more tokens than any model reads, more seconds than any run takes."""
_EXAMPLES = "512, uniform:100:1000, normal:500:100, lognormal:512:0.8 or choice:128=3,512=1"


@dataclass(frozen=True, slots=True)
class Distribution:
    """Of numbers that are not negative. `text` is its short form, and says all of it."""

    text: str
    least: float
    greatest: float
    sample: Draw = field(compare=False, repr=False)
    """One value, not yet within the bounds."""

    def draw(self, rng: np.random.Generator) -> float:
        """One value, within the bounds."""
        return min(max(self.sample(rng), self.least), self.greatest)

    def draw_int(self, rng: np.random.Generator) -> int:
        """One value, rounded, at least 1."""
        return max(round(self.draw(rng)), 1)


def parse(text: object) -> Distribution:
    """The distribution that a text names.

    >>> rng = np.random.default_rng(0)
    >>> parse(512).draw(rng)
    512.0
    >>> parse("choice:3,4").draw(rng) in (3.0, 4.0)
    True

    Raises:
        ValueError: it names none; the message says what is wrong.
    """
    if isinstance(text, Distribution):
        return text
    text = str(text)
    words = [word.strip() for word in text.split(":")]
    bounds = dict(_bound(word) for word in words if word.startswith(("min=", "max=")))
    kind, *arguments = [word for word in words if not word.startswith(("min=", "max="))] or [""]
    least, greatest = bounds.get("min", 0.0), bounds.get("max", _GREATEST)
    if least > greatest:
        raise ValueError(f"{text!r}: min is above max")
    if not arguments:
        least = greatest = min(max(_number(kind, text=text), least), greatest)
        return Distribution(text, least, greatest, lambda _: least)
    return Distribution(text, least, greatest, _drawing(kind, arguments, text=text))


def _drawing(kind: str, arguments: Sequence[str], *, text: str) -> Draw:
    if kind == "choice":
        return _choice(":".join(arguments), text=text)
    if kind not in _KINDS:
        raise ValueError(f"{text!r} is no length; write for example {_EXAMPLES}")
    make, names = _KINDS[kind]
    if len(arguments) != len(names):
        raise ValueError(f"{text!r} must be {kind}:{':'.join(name.upper() for name in names)}")
    return make(*(_number(word, text=text) for word in arguments))


def _uniform(low: float, high: float) -> Draw:
    if low > high:
        raise ValueError(f"uniform:{low:g}:{high:g}: the first bound is above the second")
    # Whole numbers are as likely as each other when both bounds are whole.
    if low == int(low) and high == int(high):
        return lambda rng: float(rng.integers(int(low), int(high), endpoint=True))
    return lambda rng: float(rng.uniform(low, high))


def _normal(mean: float, deviation: float) -> Draw:
    return lambda rng: float(rng.normal(mean, deviation))


def _lognormal(median: float, sigma: float) -> Draw:
    if median <= 0:
        raise ValueError(f"lognormal:{median:g}:{sigma:g}: the median must be above 0")
    location = math.log(median)
    return lambda rng: float(rng.lognormal(location, sigma))


_KINDS: Mapping[str, tuple[Callable[[float, float], Draw], tuple[str, str]]] = {
    "uniform": (_uniform, ("least", "greatest")),
    "normal": (_normal, ("mean", "deviation")),
    "lognormal": (_lognormal, ("median", "sigma")),
}


def _choice(items: str, *, text: str) -> Draw:
    draws, weights = [], []
    for item in items.split(","):
        value, _, weight = item.partition("=")
        low, dash, high = value.partition("-")
        ends = (_number(low, text=text), _number(high if dash else low, text=text))
        draws.append(_uniform(*ends))
        weights.append(_number(weight or "1", text=text))
    if not sum(weights) > 0:
        raise ValueError(f"{text!r}: the weights are all 0")
    upto = list(accumulate(weights))

    def draw(rng: np.random.Generator) -> float:
        # The last one takes what rounding leaves.
        return draws[bisect(upto, rng.random() * upto[-1], hi=len(upto) - 1)](rng)

    return draw


def _bound(word: str) -> tuple[str, float]:
    name, _, value = word.partition("=")
    return name, _number(value, text=word)


def _number(word: str, *, text: str) -> float:
    try:
        value = float(word)
    except ValueError:
        raise ValueError(
            f"{text!r}: {word!r} is no number; write for example {_EXAMPLES}"
        ) from None
    if not 0 <= value <= _GREATEST:
        raise ValueError(f"{text!r}: {word!r} must be a number from 0 to {_GREATEST:,.0f}")
    return value


def _to_document(distribution: Distribution) -> str:
    return distribution.text


_InDocument = PlainSerializer(_to_document, return_type=str)


def _parse_tokens(value: Any) -> Distribution:
    found = parse(value)
    if found.greatest < 1:
        raise ValueError(f"{found.text!r}: at least one token is needed")
    return found


Length = Annotated[Distribution, BeforeValidator(_parse_tokens), _InDocument]
"""Of tokens or turns in a document: whole numbers, at least 1."""
Seconds = Annotated[Distribution, BeforeValidator(parse), _InDocument]
"""Of pauses in a document."""
