"""What the screen counts is what the verdict counts."""

from __future__ import annotations

from array import array

from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.generator.tally import Tally, goodness
from loadtest.records import Record, frame
from loadtest.verdict.measures import measured
from loadtest.verdict.slo import Slo

TIMES_S = st.none() | st.integers(0, 40).map(lambda ms: ms / 1000)
GAPS_S = st.lists(st.integers(0, 20).map(lambda ms: ms / 1000), max_size=4)
RECORDS = st.builds(
    Record,
    session=st.integers(0, 9),
    turn=st.just(0),
    traffic=st.sampled_from(["chat", "batch", "other"]),
    model=st.just("m"),
    is_stream=st.booleans(),
    due_s=st.just(0.0),
    send_lag_s=st.just(0.0),
    planned_output_tokens=st.just(4),
    ttft_s=TIMES_S,
    latency_s=TIMES_S,
    itl_s=GAPS_S.map(lambda gaps: array("f", gaps).tobytes()),
    output_tokens=st.none() | st.integers(0, 4),
    error=st.sampled_from([None, None, "http_500"]),
    cancelled=st.booleans(),
)
SLO = Slo.model_validate(
    {
        "request": {"ttft_ms": 20.0, "tpot_ms": 10.0, "itl_ms": 12.0, "latency_ms": 30.0},
        "traffic": {"batch": {"request": {"tpot_ms": 10.0}}, "other": {"goodput_rps": 1.0}},
    }
)


@settings(deadline=None, max_examples=200)
@given(st.lists(RECORDS, min_size=1, max_size=8), st.sampled_from([None, SLO]))
def test_the_screen_counts_as_the_verdict_does(records: list[Record], slo: Slo | None) -> None:
    tally = Tally(goodness(slo))
    tally.add(records, 1.0, num_sent=len(records))
    judged = measured(frame(records), slo)
    outcomes = judged["outcome"].to_list()

    assert tally.num_completed == outcomes.count("completed")
    assert tally.num_failed == outcomes.count("failed")
    assert tally.recent(1.0).goodput_rps == judged["is_good"].sum()
