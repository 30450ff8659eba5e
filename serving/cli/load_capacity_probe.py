"""One probe of a search for capacity: what it sends, and whether that can tell anything."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from serving.errors import ConfigError

if TYPE_CHECKING:
    from loadtest.generator.run import Plan
    from loadtest.verdict.summary import Summary

_LEAST_SESSIONS = 10
_LEAST_TRACE_S = 10.0
_ANSWERS = 4.0
"""How many of its slowest answers a probe should last. What waits when it ends, and is still
answered in time, counts as good: in n such times a rate of 1 + 1 / n of the capacity may hold."""


def probe_at(plan: Plan, rate: float, *, num_tried: int) -> Plan:
    """The next probe of a rate. Each has the seed after that of the one before: repeats of the very
    same draw would say nothing of others.

    Raises:
        ConfigError: the workload has no rate that could be scaled.
    """
    workload = plan.workload.model_copy(update={"seed": plan.workload.seed + num_tried})
    return replace(plan, workload=workload, rate_scale=workload.scale_to(rate))


def too_small(probe: Plan) -> ConfigError | None:
    """Why a probe could not tell whether its rate holds; `None` if it could."""
    workload, scale = probe.workload, probe.rate_scale
    rate, planned_s = workload.mean_rate(scale), workload.planned_s(scale)
    at_rate = f"at {rate:.4g} {workload.unit}/s"
    if (trace_s := workload.shortest_trace_s(scale)) < _LEAST_TRACE_S:
        return ConfigError(
            f"{at_rate} the trace is over in {trace_s:.3g} s, and in less than {_LEAST_TRACE_S:g} "
            "s no queue would show",
            code="probe_too_small",
            param="--start",
            hint="take a longer trace, or a lower --start",
        )
    if round(rate * planned_s) < _LEAST_SESSIONS or next(workload.sessions(scale), None) is None:
        return ConfigError(
            f"{at_rate} about {rate * planned_s:.2g} {workload.unit} are due within "
            f"{planned_s:.3g} s, too few to tell",
            code="probe_too_small",
            param="--duration",
            hint="take a longer --duration or trace, or a higher --start",
        )
    return None


def doubt(probe: Plan, summary: Summary) -> str | None:
    """Why a rate that seems to hold may not: the probe was short beside its answers."""
    latency = summary.overall.latency_ms
    slowest_s = latency.p99 / 1000 if latency else 0.0
    lasted_s = min(probe.workload.shortest_trace_s(probe.rate_scale), summary.duration_s)
    if lasted_s >= _ANSWERS * slowest_s:
        return None
    return (
        f"{lasted_s:.3g} s with answers of {slowest_s:.3g} s may not show a queue that grows: "
        f"{_ANSWERS * slowest_s:.3g} s would"
    )
