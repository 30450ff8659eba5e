"""What one run amounts to, and how it is kept. `summarize.py` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from serving.errors import ConfigError

SUMMARY_FILE = "summary.json"

Verdict = Literal["pass", "fail", "invalid", "none"]
"""`invalid`: the generator was the bottleneck, or the run was stopped, so that the figures say
nothing of the server.
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
    itself) add up to. Only completed ones are in the distributions of TTFT, ITL, TPOT and latency,
    which are `None` where nothing was measured. Rates of requests are over the seconds in which
    requests were due; goodput counts completed requests that meet the SLO's limits for a request,
    or all completed ones where it has none. `output_tokens_per_s` is over the seconds until the
    last answer ended, so that a backlog worked off later is not taken for throughput, and `None` if
    a completed answer did not name its tokens. Tokens are of all answers whose usage the server
    named. `errors` counts failures by code, the most first.
    `attainment_ratio` is the share of requests that goodput counts, of all but cancelled ones.
    `ended_early` are completed answers that were to have a length exactly and have less, which is
    `early_length_ratio` of it on average.
    """

    name: str
    requests: int
    completed: int
    failed: int
    cancelled: int
    offered_rps: float
    completed_rps: float
    goodput_rps: float
    output_tokens_per_s: float | None
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    ttft_ms: Distribution | None = None
    itl_ms: Distribution | None = None
    tpot_ms: Distribution | None = None
    latency_ms: Distribution | None = None
    send_lag_ms: Distribution | None = None
    errors: Mapping[str, int] = field(default_factory=dict)
    attainment_ratio: float | None = None
    ended_early: int = 0
    early_length_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One line of an SLO: what it asks, what came out, and whether that is within `limit`.

    `what` reads as in the SLO's file, for example `percentiles.ttft_ms.p99`; `measured` is `None`
    where nothing could be measured, which meets no limit. `is_least`: `limit` is the least it may
    be, not the most.
    """

    what: str
    limit: float
    measured: float | None
    met: bool
    is_least: bool = False


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in figures. `reasons` says in words what the verdict rests on, worst first, and then
    what makes figures look better than they should."""

    duration_s: float
    overall: Part
    parts: tuple[Part, ...]
    checks: tuple[Check, ...]
    verdict: Verdict
    reasons: tuple[str, ...]


def to_json(summary: Summary) -> bytes:
    """All of it, indented, as it is kept in `SUMMARY_FILE`."""
    return msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"


def from_json(document: bytes) -> Summary:
    """What `to_json` made.

    Raises:
        ConfigError: it is no summary, or of another version.
    """
    try:
        return msgspec.json.decode(document, type=Summary)
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"{SUMMARY_FILE} is no summary of a run: {error}",
            code="result_unreadable",
            hint="make the result again with `galerne load run`",
        ) from error


def last_line(summary: Summary) -> dict[str, Any]:
    """What a script asks of a run: the last line of `galerne load run --json`. `None` where nothing
    was measured."""
    overall = summary.overall
    return {
        "requests": overall.requests,
        "completed": overall.completed,
        "failed": overall.failed,
        "ttft_ms": _quantiles(overall.ttft_ms),
        "itl_ms": _quantiles(overall.itl_ms),
        "goodput_rps": overall.goodput_rps,
        "verdict": summary.verdict,
    }


def _quantiles(found: Distribution | None) -> dict[str, float | None]:
    return {name: getattr(found, name, None) for name in ("p50", "p90", "p99")}
