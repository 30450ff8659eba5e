"""Whether a new version keeps the SLO: what is asked of Prometheus, and what follows. Pure."""

from __future__ import annotations

from collections.abc import Mapping

Events = Mapping[tuple[str, str], float]
"""A number by model and SLO (`ttft` or `itl`)."""

MAX_BURN = 14.4
"""Times the speed at which the error budget may be spent. Source: Google, The Site Reliability
Workbook, chapter 5: what calls a person at once, a 50th of a month's budget in an hour."""
MIN_EVENTS = 50
"""Fewer say nothing: one late stream of ten would be a tenth."""

_WORDS = {"ttft": "first tokens", "itl": "times between tokens"}


def bad_events(window_s: float) -> str:
    """PromQL for the bad events of the last seconds; a target that two jobs scrape counts once."""
    return _increase('{result="bad"}', window_s)


def all_events(window_s: float) -> str:
    """PromQL for all events of the last seconds."""
    return _increase("", window_s)


def _increase(labels: str, window_s: float) -> str:
    metric = f"galerne_gateway_slo_events_total{labels}[{window_s:.0f}s]"
    by_job = f"sum by (model, slo, instance, job) (increase({metric}))"
    return f"sum by (model, slo) (max by (model, slo, instance) ({by_job}))"


def broken_slo(bad: Events, every: Events, objectives: Mapping[str, float]) -> str | None:
    """Which SLO is broken, in words; nothing if none is, or if there are too few events to say.

    Args:
        objectives: by model the share of events that is to be good, 0 to 1.

    >>> broken_slo({("m", "ttft"): 20.0}, {("m", "ttft"): 100.0}, {"m": 0.99})
    'm: 20% of first tokens are late, 20 times what its SLO allows'
    >>> broken_slo({("m", "ttft"): 20.0}, {("m", "ttft"): 200.0}, {"m": 0.99})
    """
    for (model, slo), total in sorted(every.items()):
        if model not in objectives or total < MIN_EVENTS:
            continue
        ratio = bad.get((model, slo), 0.0) / total
        burn = ratio / (1.0 - objectives[model])
        if burn > MAX_BURN:
            what = _WORDS.get(slo, slo)
            return f"{model}: {ratio:.0%} of {what} are late, {burn:.0f} times what its SLO allows"
    return None
