"""The figures that a report begins with."""

from __future__ import annotations

from typing import NamedTuple

from loadtest.report.words import DASH, number, percent, whole
from loadtest.verdict.summary import Distribution, Part


class KeyFigure(NamedTuple):
    """One of them, and what it is seen against."""

    name: str
    value: str
    unit: str
    more: str


def key_figures(part: Part) -> tuple[KeyFigure, ...]:
    """Rates first, then what users feel, then how much was produced."""
    return (
        _rate("Offered", part.offered_rps, f"{whole(part.requests)} in all"),
        _rate("Completed", part.completed_rps, f"{percent(part.completed, part.requests)} of all"),
        _rate(
            "Goodput",
            part.goodput_rps,
            f"{percent(part.goodput_rps, part.offered_rps)} of what was offered",
        ),
        KeyFigure(
            "Failed",
            whole(part.failed),
            "requests",
            f"{percent(part.failed, part.requests)} of all",
        ),
        _times("TTFT", part.ttft_ms),
        _times("ITL", part.itl_ms),
        _times("Latency", part.latency_ms),
        KeyFigure(
            "Output",
            number(part.output_tokens_per_s),
            "tokens/s",
            f"{percent(part.cached_tokens, part.prompt_tokens)} of prompt tokens cached",
        ),
    )


def _rate(name: str, rps: float, more: str) -> KeyFigure:
    return KeyFigure(name, number(rps), "requests/s", more)


def _times(name: str, distribution: Distribution | None) -> KeyFigure:
    if distribution is None:
        return KeyFigure(name, DASH, "", "not measured")
    more = f"p99 {number(distribution.p99)} ms"
    return KeyFigure(f"{name}, p50", number(distribution.p50), "ms", more)
