"""The limits of an SLO that are times, to be drawn beside what was measured."""

from __future__ import annotations

from typing import NamedTuple

from loadtest.report.words import span
from loadtest.verdict.summary import Summary


class Limit(NamedTuple):
    """One limit, in ms, and how it is named beside its line."""

    label: str
    ms: float


def limits(summary: Summary, measure: str) -> list[Limit]:
    """Those on `measure`, for example `ttft_ms`; limits of parts of the workload are left out."""
    return [
        Limit(f"limit: {_label(check.what, measure)} {span(check.limit)}", check.limit)
        for check in summary.checks
        if measure in check.what.split(".") and not check.what.startswith("traffic.")
    ]


def _label(what: str, measure: str) -> str:
    """
    >>> _label("percentiles.ttft_ms.p99", "ttft_ms"), _label("request.itl_ms", "itl_ms")
    ('TTFT p99', 'ITL of a request')
    """
    name = measure.removesuffix("_ms")
    *_, last = what.split(".")
    return (
        f"{name if name == 'latency' else name.upper()} {last if last != measure else ''}".strip()
    )
