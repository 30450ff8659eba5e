"""What one run amounts to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["pass", "fail", "invalid", "none"]
"""`invalid`: the generator was the bottleneck, so that the figures say nothing of the server.
`none`: no SLO was given."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """Quantiles of a number of measurements, in ms."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Part:
    """Figures of all requests, or of those of one part of the workload.

    `requests` are all that were due, which `completed`, `failed` and `cancelled` (by the workload
    itself) add up to. A distribution is `None` where nothing was measured. Rates are over the
    seconds in which requests were due; goodput counts completed requests that meet the SLO's
    limits for a request, or all completed ones where it has none. `errors` counts failures by code.
    """

    name: str
    requests: int
    completed: int
    failed: int
    cancelled: int
    offered_rps: float
    completed_rps: float
    goodput_rps: float
    output_tokens_per_s: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    ttft_ms: Distribution | None = None
    itl_ms: Distribution | None = None
    tpot_ms: Distribution | None = None
    latency_ms: Distribution | None = None
    send_lag_ms: Distribution | None = None
    errors: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """One line of an SLO: what it asks, what came out, and whether that is within `limit`.

    `what` reads as in the SLO's file, for example `percentiles.ttft_ms.p99`; `measured` is `None`
    where nothing could be measured, which meets no limit.
    """

    what: str
    limit: float
    measured: float | None
    met: bool


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in figures. `reasons` says in words what the verdict rests on, worst first."""

    duration_s: float
    overall: Part
    parts: tuple[Part, ...]
    checks: tuple[Check, ...]
    verdict: Verdict
    reasons: tuple[str, ...]
