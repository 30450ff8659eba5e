"""PromQL that counts each process once, however many jobs scrape it.

`by` are labels, comma-separated. Selectors are PromQL's, without braces.
"""

from __future__ import annotations

MODEL = 'model="$model"'
"""Selects the dashboard's model among Galerne's metrics."""
VLLM_MODEL = 'model_name="$model"'
"""Selects it among vLLM's."""
_WINDOW = "$__rate_interval"


def rate(metric: str, selector: str = "", *, by: str = "model") -> str:
    """How fast a counter grows, per second.

    >>> rate("a_total", 'x="y"', by="model")
    'sum by (model) (max by (model, engine, instance) (rate(a_total{x="y"}[$__rate_interval])))'
    """
    return _sum(f"rate({_select(metric, selector)}[{_WINDOW}])", by)


def increase(metric: str, selector: str = "", *, by: str = "model") -> str:
    """How much a counter has grown in the time range shown."""
    return _sum(f"increase({_select(metric, selector)}[$__range])", by)


def total(metric: str, selector: str = "", *, by: str = "model") -> str:
    """A gauge, summed over processes."""
    return _sum(_select(metric, selector), by)


def highest(metric: str, selector: str = "", *, by: str = "model") -> str:
    """A gauge that one process tells, or several tell alike.

    >>> highest("a", by="model")
    'max by (model) (a)'
    """
    return f"max by ({by}) ({_select(metric, selector)})"


def quantile(share: float, histogram: str, selector: str = "", *, by: str = "") -> str:
    """The value that a share of a histogram's events does not exceed."""
    buckets = rate(f"{histogram}_bucket", selector, by=f"{by}, le" if by else "le")
    return f"histogram_quantile({share}, {buckets})"


def burn(window: str, selector: str = "") -> str:
    """How many times faster than its objective allows a model spends its error budget.

    `window` is one of those of `galerne:slo_errors:ratio_rate…`.
    """
    errors = _select(f"galerne:slo_errors:ratio_rate{window}", selector)
    return f"{errors} / on (model) group_left () (1 - galerne:slo_objective:ratio)"


def _select(metric: str, selector: str) -> str:
    return f"{metric}{{{selector}}}" if selector else metric


def _sum(vector: str, by: str) -> str:
    return f"sum by ({by}) (max by ({by}, engine, instance) ({vector}))"
