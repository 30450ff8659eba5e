"""Signals from what replicas report by themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from serving.adapters.replica_reports import told_signals


@dataclass
class Point:
    timestamp: float
    value: float


def series(*values: float, every_s: float = 10.0, begin_s: float = 0.0) -> list[Point]:
    return [Point(begin_s + i * every_s, value) for i, value in enumerate(values)]


def test_replicas_are_summed_and_caches_averaged() -> None:
    told = told_signals(
        {
            "prompt_tokens_total": {"r1": series(0, 1000), "r2": series(500, 700)},
            "output_tokens_total": {"r1": series(0, 50, 100), "r2": series(7, 7)},
            "waiting_tokens": {"r1": series(9, 5), "r2": series(0, 1)},
            "kv_used_ratio": {"r1": series(0.2), "r2": series(0.6)},
            "in_flight": {"r1": series(3), "r2": series(1)},
        },
        at_s=42.0,
        queued=2.0,
    )
    assert told is not None
    assert told.at_s == 42.0
    assert told.prompt_tokens_per_s == 120.0
    assert told.output_tokens_per_s == 5.0
    assert told.waiting_tokens == 6.0
    assert told.kv_used_ratio == 0.4
    assert told.running == 4.0
    assert told.queued == 2.0
    assert told.replicas_seen == 2
    assert told.requests_per_s > 0


def test_clocks_of_hosts_may_be_hours_apart() -> None:
    reports = {
        "output_tokens_total": {
            "r1": series(0, 100, begin_s=0.0), "r2": series(0, 100, begin_s=86_400.0)
        }
    }  # fmt: skip
    told = told_signals(reports, at_s=0.0, queued=0.0)
    assert told is not None
    assert told.output_tokens_per_s == 20.0


def test_nonsense_of_one_replica_leaves_the_others() -> None:
    reports = {
        "output_tokens_total": {
            "nan": series(0, math.nan),
            "back": series(100, 50),
            "still": [Point(5.0, 1.0), Point(5.0, 90.0)],
            "good": series(0, 30),
        },
        "kv_used_ratio": {"nan": series(math.nan), "good": series(0.5), "big": series(9.0)},
    }
    told = told_signals(reports, at_s=0.0, queued=math.nan)
    assert told is not None
    assert told.output_tokens_per_s == 3.0
    assert told.kv_used_ratio == 0.75
    assert told.problem() is None


def test_silence_is_no_report() -> None:
    assert told_signals({}, at_s=0.0, queued=0.0) is None


def test_an_idle_model_looks_idle() -> None:
    told = told_signals({"in_flight": {"r": series(0, 0)}}, at_s=0.0, queued=0.0)
    assert told is not None
    assert told.requests_per_s == 0.0


values = st.floats(allow_nan=True, allow_infinity=True)


@given(
    st.dictionaries(
        st.sampled_from(
            ["prompt_tokens_total", "output_tokens_total", "preemptions_total", "waiting_tokens",
             "kv_used_ratio", "in_flight"]
        ),
        st.dictionaries(
            st.sampled_from("xyz"),
            st.lists(st.builds(Point, timestamp=st.floats(0, 1e9), value=values), max_size=4),
        ),
    ),
    values,
)  # fmt: skip
def test_whatever_is_reported_the_signals_can_be(
    reports: dict[str, dict[str, list[Point]]], queued: float
) -> None:
    told = told_signals(reports, at_s=0.0, queued=queued)
    assert told is None or told.problem() is None
