"""Scaling signals from what replicas report to Ray Serve, for when Prometheus does not answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from serving.scaling.signals import Signals


class Point(Protocol):
    """A value at a time of its replica's clock, in seconds."""

    timestamp: float
    value: float


Reports = Mapping[str, Mapping[object, Sequence[Point]]]
"""By name of the figure and replica, as `AutoscalingContext.raw_metrics` has them; the names are
those of `EngineReplica.record_autoscaling_stats`."""
_ABSURD = 1e15
"""No replica has done, or has, as much of anything."""


def told_signals(reports: Reports, *, at_s: float, queued: float) -> Signals | None:
    """What the replicas tell together; `None` if none of them does.

    Figures that cannot be true are left out. Clocks are compared with themselves only. Latencies
    and the prompts that have not been begun are unknown here, so demand is what was computed.

    Args:
        at_s: what the signals say of their time.
        queued: requests that wait for a replica.
    """
    replicas = {replica for series in reports.values() for replica in series}
    if not replicas and not queued:
        return None

    def latest(name: str) -> list[float]:
        return [
            points[-1].value
            for points in reports.get(name, {}).values()
            if points and _can_be(points[-1].value)
        ]

    def rate(name: str) -> float:
        return sum(_rate(points) for points in reports.get(name, {}).values())

    used = [min(ratio, 1.0) for ratio in latest("kv_used_ratio")]
    output_tokens_per_s = rate("output_tokens_total")
    running = sum(latest("in_flight"))
    return Signals(
        at_s,
        # A model that is in use must not look idle.
        requests_per_s=float(running > 0 or output_tokens_per_s > 0),
        prompt_tokens_per_s=rate("prompt_tokens_total"),
        output_tokens_per_s=output_tokens_per_s,
        waiting_tokens=sum(latest("waiting_tokens")),
        queued=queued if _can_be(queued) else 0.0,
        running=running,
        kv_used_ratio=sum(used) / len(used) if used else 0.0,
        preemptions_per_s=rate("preemptions_total"),
        has_latencies=False,
        replicas_seen=len(reports.get("output_tokens_total", {})),
    )


def _rate(points: Sequence[Point]) -> float:
    """Per second, over all that is known of a counter."""
    good = [point for point in points if _can_be(point.value)]
    if len(good) < 2:
        return 0.0
    seconds = good[-1].timestamp - good[0].timestamp
    rise = good[-1].value - good[0].value
    return rise / seconds if seconds > 0 and rise > 0 else 0.0


def _can_be(value: float) -> bool:
    return 0 <= value < _ABSURD  # not so of NaN
