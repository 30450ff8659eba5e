"""What a run looks like while it goes on: totals, and the last seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import quantiles

import numpy as np

from loadtest.records import Record
from loadtest.verdict.measures import MS_DIGITS
from loadtest.verdict.slo import Slo

WINDOW_S = 10.0
"""Rates and quantiles on a screen are of the last seconds, so that a change shows."""


@dataclass(frozen=True, slots=True)
class Recent:
    """The last `WINDOW_S`; times are `None` where nothing was measured."""

    offered_rps: float
    goodput_rps: float
    ttft_p50_ms: float | None
    ttft_p99_ms: float | None
    send_lag_ms: float | None


@dataclass(slots=True)
class Tally:
    """Counts requests as they end. `is_good` says which of the completed ones meet the SLO."""

    is_good: Callable[[Record], bool]
    num_completed: int = 0
    num_failed: int = 0
    _ends: deque[tuple[float, Record]] = field(default_factory=deque)
    _sent: deque[tuple[float, int]] = field(default_factory=lambda: deque([(0.0, 0)]))

    def add(self, records: Sequence[Record], elapsed_s: float, *, num_sent: int) -> None:
        """Requests that have ended by now, and how many have been sent."""
        self._sent.append((elapsed_s, num_sent))
        while len(self._sent) > 1 and self._sent[0][0] < elapsed_s - WINDOW_S:
            self._sent.popleft()
        for record in records:
            is_completed = _is_completed(record)
            self.num_completed += is_completed
            self.num_failed += not is_completed and not (record.cancelled and record.error is None)
            self._ends.append((elapsed_s, record))
        while self._ends and self._ends[0][0] <= elapsed_s - WINDOW_S:
            self._ends.popleft()

    def recent(self, elapsed_s: float) -> Recent:
        """The last seconds as they look now."""
        records = [record for _, record in self._ends]
        completed = [record for record in records if _is_completed(record)]
        window_s = max(min(elapsed_s, WINDOW_S), 1e-3)
        ttft_ms = [r.ttft_s * 1000 for r in completed if r.is_stream and r.ttft_s is not None]
        return Recent(
            offered_rps=(self._sent[-1][1] - self._sent[0][1]) / window_s,
            goodput_rps=sum(map(self.is_good, completed)) / window_s,
            ttft_p50_ms=_percentile(ttft_ms, 50),
            ttft_p99_ms=_percentile(ttft_ms, 99),
            send_lag_ms=max((r.send_lag_s * 1000 for r in records), default=None),
        )


def goodness(slo: Slo | None) -> Callable[[Record], bool]:
    """Whether a completed request keeps its limits, as `loadtest.verdict.measures` counts it."""
    if slo is None:
        return lambda _record: True

    def is_good(record: Record) -> bool:
        limits = slo.request_limits(record.traffic)
        return limits is None or all(
            _keeps(record, name, limit_ms) for name, limit_ms in limits.limits()
        )

    return is_good


def _is_completed(record: Record) -> bool:
    return record.error is None and not record.cancelled and record.latency_s is not None


def _keeps(record: Record, name: str, limit_ms: float) -> bool:
    if not record.is_stream and name != "latency_ms":
        return True
    found_s = _seconds(record, name)
    if found_s is None:
        # One part has no gap and one token no time per further one; what else is missing is bad.
        return name == "itl_ms" or (name == "tpot_ms" and record.output_tokens == 1)
    return bool(np.round(found_s * 1000, MS_DIGITS) <= limit_ms)


def _seconds(record: Record, name: str) -> float | None:
    """One figure of a completed stream; `None` where there is none."""
    gaps_s = np.frombuffer(record.itl_s, np.float32)
    further_tokens = (record.output_tokens or 0) - 1
    match name:
        case "ttft_ms":
            return record.ttft_s
        case "itl_ms":
            return float(gaps_s.max()) if gaps_s.size else None
        case "tpot_ms":
            if record.ttft_s is None or further_tokens <= 0 or not gaps_s.size:
                return None
            return float(gaps_s.sum(dtype=np.float64)) / further_tokens
    return record.latency_s


def _percentile(values: Sequence[float], percent: int) -> float | None:
    if len(values) < 2:
        return values[0] if values else None
    return quantiles(values, n=100, method="inclusive")[percent - 1]
