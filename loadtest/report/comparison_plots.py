"""The pictures of a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from loadtest.report import series, style
from loadtest.report.distributions import curves
from loadtest.report.style import Plot
from loadtest.verdict.compare import Comparison, Side
from loadtest.verdict.effects import Effect
from loadtest.verdict.measures import measured

TIMES = {
    "ttft_ms": "TTFT",
    "latency_ms": "Latency",
    "tpot_ms": "TPOT",
    "itl_ms": "Longest gap of each answer",
}
"""What is compared, and how it is called in a title."""

_LOOKS = {
    "better": (style.GREEN, "o"),
    "worse": (style.RED, "s"),
    "no difference": (style.GREY, "D"),
}
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 5, 10, 20, 50, 100)
_LEAST_SPREAD = 1.15


def comparison_plots(a: Side, b: Side, comparison: Comparison) -> tuple[Plot, ...]:
    """What changed and how sure that is, then the distributions of both runs; what there is."""
    sides = [measured(side.records, None) for side in (a, b)]
    both = [
        _compared(metric, title, sides)
        for metric, title in TIMES.items()
        if any(side[metric].is_not_null().any() for side in sides)
    ]
    decided = [e for e in comparison.effects if e.change is not None and not e.is_difference]
    return (_changes(decided), *both) if decided else tuple(both)


@style.house_style
def _compared(metric: str, title: str, sides: Sequence[pl.DataFrame]) -> Plot:
    figure = style.figure(2.6)
    values = [series.finite(side[metric]) for side in sides]
    curves(figure.subplots(), dict(zip("AB", values, strict=True)), first_width=2.8)
    return Plot(
        f"compared_{metric.removesuffix('_ms')}",
        f"{title}, A and B",
        "The further left, the faster. Dots mark p50, p90 and p99; A is the wider line.",
        f"Cumulative distributions of {title} in A and B",
        figure,
    )


@style.house_style
def _changes(effects: Sequence[Effect]) -> Plot:
    figure = style.figure(0.9 + 0.24 * len(effects))
    axes = figure.subplots()
    axes.axvline(1.0, color=style.INK, linewidth=1.0)
    shown = {effect.conclusion: _draw(axes, row, effect) for row, effect in enumerate(effects)}
    axes.set_yticks(range(len(effects)), [effect.name for effect in effects])
    axes.set_ylim(len(effects) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    _ratio_axis(axes, [bound for effect in effects for bound in (effect.low, effect.high)])
    style.legend(axes, list(shown.values()), list(shown))
    return Plot(
        "changes",
        "What changed, and how sure that is",
        "Each mark is how many times as much it is in B as in A; the bar is where chance could "
        "have put it, 95 times of 100. A bar that crosses 1 shows no difference. Less is better of "
        "times, more of goodput.",
        "; ".join(effect.in_words() for effect in effects),
        figure,
    )


def _draw(axes: Axes, row: int, effect: Effect) -> Artist:
    assert effect.change is not None
    colour, marker = _LOOKS[effect.conclusion]
    axes.plot(
        [_drawn(effect.low), _drawn(effect.high)], [row, row], color=colour, linewidth=3, alpha=0.5
    )
    (mark,) = axes.plot([_drawn(effect.change)], [row], marker, color=colour, markersize=5)
    return mark


def _drawn(ratio: float | None) -> float:
    """Within what the axis can show: an interval may reach to 0 or to infinity."""
    assert ratio is not None
    return float(np.clip(ratio, _TICKS[0], _TICKS[-1]))


def _ratio_axis(axes: Axes, ratios: Sequence[float | None]) -> None:
    furthest = max(abs(math.log(_drawn(ratio))) for ratio in ratios)
    spread = max(1.1 * furthest, math.log(_LEAST_SPREAD))
    axes.set_xscale("log")
    axes.set_xlim(math.exp(-spread), math.exp(spread))
    ticks = [tick for tick in _TICKS if abs(math.log(tick)) <= spread]
    far = [tick for tick in ticks if abs(math.log(tick)) > spread / 12 or tick == 1]
    axes.xaxis.set_major_locator(FixedLocator(far))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}"))
    axes.set_xlabel("B / A")
