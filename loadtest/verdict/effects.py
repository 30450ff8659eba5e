"""One figure of two runs, A and B: how it changed, and whether chance explains that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from loadtest.verdict.resampling import Floats, Seen

Conclusion = Literal["better", "worse", "no difference", "undecided"]
"""`no difference`: none that these runs show. `undecided`: too little was measured to tell."""

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Effect:
    """One figure of both runs, `None` where nothing was measured.

    `change` is B / A, or B - A where `is_difference`: `failed_ratio` usually is 0, of which nothing
    is a multiple. It lies between `low` and `high` with `CONFIDENCE`. All three are `None` where
    undecided, and `reason` says why. `is_least`: more of it is better.
    """

    metric: str
    statistic: str | None = None
    a: float | None = None
    b: float | None = None
    conclusion: Conclusion = "undecided"
    change: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str | None = None
    is_difference: bool = False
    is_least: bool = False

    @property
    def name(self) -> str:
        """For example `ttft_ms.p99`, or `goodput_rps`."""
        return f"{self.metric}.{self.statistic}" if self.statistic else self.metric

    def in_words(self) -> str:
        """One line for a person.

        >>> Effect("ttft_ms", "p99", 100.0, 120.0, "worse", 1.2, 1.1, 1.31).in_words()
        'ttft_ms.p99: worse, 100 became 120: 1.2 times as much (1.1 to 1.31)'
        """
        if self.change is None:
            return f"{self.name}: undecided, {self.reason}"
        change, span = f"{self.change:.4g} times as much", f"({self.low:.4g} to {self.high:.4g})"
        if self.is_difference:
            change, span = f"{self.change:+.4g}", f"({self.low:+.4g} to {self.high:+.4g})"
        return f"{self.name}: {self.conclusion}, {self.a:.4g} became {self.b:.4g}: {change} {span}"


def concluded(asked: Effect, a: Seen, b: Seen, *, lacking: str | None) -> Effect:
    """`asked`, which names a figure, with what became of it.

    It is better or worse if the whole interval lies on one side of no change.

    Args:
        lacking: why too little was measured to tell, if it was.
    """
    known = replace(asked, a=a.value, b=b.value)
    if lacking:
        return replace(known, reason=lacking)
    if asked.is_difference:
        return _with_interval(known, b.value - a.value, b.drawn - a.drawn)
    if a.value <= 0:
        return replace(known, reason="A's is 0, of which nothing is a multiple")
    with np.errstate(divide="ignore", invalid="ignore"):
        return _with_interval(known, b.value / a.value, b.drawn / a.drawn)


def _with_interval(known: Effect, change: float, drawn: Floats) -> Effect:
    beyond = (1 - CONFIDENCE) / 2
    # Not between two draws, of which one may be infinite.
    low = float(np.nanquantile(drawn, beyond, method="lower"))
    high = float(np.nanquantile(drawn, 1 - beyond, method="higher"))
    same = 0.0 if known.is_difference else 1.0
    conclusion: Conclusion = "no difference"
    if low > same or high < same:
        conclusion = "better" if (low > same) == known.is_least else "worse"
    return replace(known, conclusion=conclusion, change=change, low=low, high=high)
