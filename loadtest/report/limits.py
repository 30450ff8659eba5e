"""The limits of an SLO that are times, to be drawn beside what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from loadtest.report.words import span
from loadtest.verdict.slo import Slo


class Limit(NamedTuple):
    """One limit, in ms, and how it is named beside its line."""

    label: str
    ms: float


def slo_limits(slo: Slo | None, *metrics: str) -> list[Limit]:
    """Those on these metrics, for example `ttft_ms`; limits of parts of the workload are left out.

    >>> slo_limits(Slo.model_validate({"percentiles": {"itl_ms": {"p99": 60.0}}}), "itl_ms")
    [Limit(label='limit of ITL p99: 60 ms', ms=60.0)]
    """
    return [] if slo is None else [limit for metric in metrics for limit in _limits(slo, metric)]


def _limits(slo: Slo, metric: str) -> Iterator[Limit]:
    name = metric.removesuffix("_ms")
    shown = name if name == "latency" else name.upper()
    if slo.request and (ms := getattr(slo.request, metric)) is not None:
        yield Limit(f"limit of {shown}: {span(ms)}", ms)
    if slo.percentiles and (quantiles := getattr(slo.percentiles, metric)) is not None:
        for quantile, ms in quantiles.limits():
            yield Limit(f"limit of {shown} {quantile}: {span(ms)}", ms)
