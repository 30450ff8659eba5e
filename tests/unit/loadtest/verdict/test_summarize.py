"""From records to a summary: exact figures, exact counts, and verdicts that can be trusted."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.about import WorkerFigures
from loadtest.records import Record, frame
from loadtest.verdict.slo import Slo
from loadtest.verdict.summarize import summarize
from loadtest.verdict.summary import Distribution, Summary, from_json, last_line, to_json
from serving.errors import ConfigError

CALM = WorkerFigures(host="h", cpu_ratio=0.2, loop_lag_p99_ms=1.0)


def record(session: int = 0, *, itl_s: Sequence[float] = (), **fields: Any) -> Record:
    """A completed stream of two tokens, but for what is given."""
    given_fields: dict[str, Any] = {
        "turn": 0, "traffic": "chat", "model": "m", "is_stream": True, "due_s": 0.0,
        "send_lag_s": 0.0001, "planned_output_tokens": 100, "ttft_s": 0.1, "latency_s": 0.2,
        "prompt_tokens": 10, "cached_tokens": 4, "output_tokens": 1 + len(itl_s), "status": 200,
    }  # fmt: skip
    return Record(session=session, itl_s=array("f", itl_s).tobytes(), **given_fields | fields)


def failed(session: int = 0, error: str = "http_503", **fields: Any) -> Record:
    nothing = {"ttft_s": None, "latency_s": None, "prompt_tokens": None, "cached_tokens": None}
    return record(session, error=error, **{**nothing, "output_tokens": None, **fields})


def summary(
    records: Sequence[Record],
    slo: Mapping[str, Any] | None = None,
    *,
    duration_s: float = 10.0,
    workers: Sequence[WorkerFigures] = (CALM,),
) -> Summary:
    asked = None if slo is None else Slo.model_validate(slo)
    return summarize(frame(records), duration_s=duration_s, slo=asked, workers=workers)


def close(found: Distribution | None, values: Sequence[float]) -> bool:
    assert found is not None
    expected = [*np.quantile(values, [0.5, 0.9, 0.95, 0.99]), max(values)]
    quantiles = [found.p50, found.p90, found.p95, found.p99, found.max]
    return found.count == len(values) and quantiles == pytest.approx(expected, abs=0.001)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 5.0),
            st.lists(st.floats(0.0, 2.0, width=32), max_size=5),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_quantiles_are_those_of_numpy(streams: list[tuple[float, list[float]]]) -> None:
    records = [record(i, ttft_s=ttft, itl_s=gaps) for i, (ttft, gaps) in enumerate(streams)]
    gaps_ms = [1000 * gap for _, gaps in streams for gap in gaps]
    tpots_ms = [1000 * sum(gaps) / len(gaps) for _, gaps in streams if gaps]

    overall = summary(records).overall

    assert close(overall.ttft_ms, [1000 * ttft for ttft, _ in streams])
    assert close(overall.itl_ms, gaps_ms) if gaps_ms else overall.itl_ms is None
    assert close(overall.tpot_ms, tpots_ms) if tpots_ms else overall.tpot_ms is None


def test_gaps_of_all_streams_weigh_the_same() -> None:
    overall = summary([record(0, itl_s=[0.01] * 9), record(1, itl_s=[0.1])]).overall

    assert overall.itl_ms is not None
    assert (overall.itl_ms.count, overall.itl_ms.p50, overall.itl_ms.mean) == (10, 10.0, 19.0)


def test_time_per_token_counts_the_tokens_of_the_usage_not_the_parts() -> None:
    overall = summary([record(itl_s=[0.3, 0.3], output_tokens=7)]).overall

    assert overall.tpot_ms is not None
    assert overall.tpot_ms.p50 == 100.0


@pytest.mark.parametrize("output_tokens", [None, 0, 1])
def test_without_further_tokens_there_is_no_time_per_token(output_tokens: int | None) -> None:
    assert summary([record(itl_s=[0.3], output_tokens=output_tokens)]).overall.tpot_ms is None


def test_an_answer_that_came_in_one_part_has_no_time_per_token() -> None:
    """A proxy held it back: to say 0 ms would be wrong, and so would be to pass a limit."""
    found = summary([record(output_tokens=128)], {"request": {"tpot_ms": 50}})
    assert found.overall.tpot_ms is None
    assert found.verdict == "fail"


def test_tokens_that_not_all_answers_name_are_no_rate() -> None:
    assert summary([record(output_tokens=None), record(1)]).overall.output_tokens_per_s is None
    assert summary([failed(), record(1, itl_s=[0.1])]).overall.output_tokens_per_s == 0.2


def test_what_the_generator_lost_is_not_the_servers_fault() -> None:
    lost = failed(1, error="generator_out_of_sockets")
    found = summary([record(), lost], {"failed_ratio": 0})
    assert found.verdict == "invalid"
    assert found.reasons[0].endswith("it lost 1 requests itself (generator_out_of_sockets)")


def test_a_reason_names_a_few_of_many_errors() -> None:
    (reason,) = summary([failed(i, error=f"error_{i}") for i in range(40)]).reasons
    assert reason.endswith("1 error_13, and 34 further errors")


def test_requests_that_are_not_streamed_have_a_latency_alone() -> None:
    overall = summary([record(is_stream=False, itl_s=[0.1])]).overall

    assert overall.latency_ms is not None
    assert (overall.ttft_ms, overall.itl_ms, overall.tpot_ms) == (None, None, None)


def test_failures_are_counted_and_not_timed() -> None:
    records = [
        record(0, ttft_s=1.0, latency_s=2.0),
        failed(1, "http_503", latency_s=0.001),
        failed(2, "http_503", latency_s=0.001),
        failed(3, "broken_stream", ttft_s=0.01, itl_s=[0.01]),
        record(4, error=None, latency_s=None),
        record(5, cancelled=True, ttft_s=0.01, itl_s=[0.01]),
    ]

    overall = summary(records).overall

    counts = (overall.requests, overall.completed, overall.failed, overall.cancelled)
    assert counts == (6, 1, 4, 1)
    assert overall.errors == {"http_503": 2, "broken_stream": 1, "unfinished": 1}
    assert list(overall.errors) == ["http_503", "broken_stream", "unfinished"]
    assert close(overall.ttft_ms, [1000.0])
    assert close(overall.latency_ms, [2000.0])
    assert overall.itl_ms is None
    assert overall.attainment_ratio == pytest.approx(1 / 5)


def test_rates_are_over_the_seconds_in_which_requests_were_due() -> None:
    records = [record(i, due_s=float(i)) for i in range(5)] + [failed(5)]

    overall = summary(records, duration_s=5.0).overall

    assert (overall.offered_rps, overall.completed_rps, overall.goodput_rps) == (1.2, 1.0, 1.0)


def test_a_backlog_worked_off_later_is_no_throughput() -> None:
    records = [record(i, latency_s=10.0 * (i + 1), output_tokens=100) for i in range(5)]
    timed_out = failed(5, "timeout", latency_s=600.0)

    assert summary([*records, timed_out]).overall.output_tokens_per_s == 10.0


def test_requests_all_due_at_once_have_finite_rates() -> None:
    overall = summary([record(latency_s=2.0)], duration_s=0.0).overall

    assert (overall.offered_rps, overall.completed_rps) == (0.5, 0.5)


def test_parts_of_the_workload_add_up() -> None:
    records = [record(0, traffic="a"), record(1, traffic="b"), failed(2, traffic="b")]

    found = summary(records)

    assert [(part.name, part.completed, part.failed) for part in found.parts] == [
        ("a", 1, 0),
        ("b", 1, 1),
    ]
    assert sum(part.goodput_rps for part in found.parts) == found.overall.goodput_rps


def test_a_request_of_a_part_keeps_its_parts_limits() -> None:
    slo = {
        "request": {"latency_ms": 100},
        "traffic": {"batch": {"request": {"latency_ms": 1000}}},
    }
    records = [
        record(0, latency_s=0.5),
        record(1, latency_s=0.1),
        record(2, latency_s=0.5, traffic="batch"),
        record(3, latency_s=1.5, traffic="batch"),
    ]

    found = summary(records, slo)

    assert [part.goodput_rps for part in (found.overall, *found.parts)] == [0.2, 0.1, 0.1]
    checked = {check.what: (check.measured, check.met) for check in found.checks}
    assert checked["attainment_ratio"] == (0.5, False)
    assert checked["traffic.batch.attainment_ratio"] == (0.5, False)


@pytest.mark.parametrize(
    ("limits", "is_good"),
    [
        ({"ttft_ms": 291.1}, True),
        ({"ttft_ms": 291.0}, False),
        ({"itl_ms": 50}, True),
        ({"itl_ms": 49.9}, False),
        ({"tpot_ms": 35}, True),
        ({"tpot_ms": 34.9}, False),
        ({"latency_ms": 1100}, True),
        ({"latency_ms": 1099.9}, False),
        ({"ttft_ms": 291.1, "latency_ms": 1099.9}, False),
    ],
)
def test_what_takes_exactly_its_limit_keeps_it(limits: dict[str, float], is_good: bool) -> None:
    # None of these is exact in binary: 1.1 s is 1100.0000000000002 ms, 0.05 as float32 more.
    one = record(ttft_s=0.2911, itl_s=[0.02, 0.05], latency_s=1.1)

    assert summary([one], {"request": limits}).overall.attainment_ratio == float(is_good)


def test_one_token_has_no_gap_that_could_be_too_long() -> None:
    records = [record(0), record(1, itl_s=[0.01])]

    found = summary(records, {"request": {"itl_ms": 50, "tpot_ms": 50}})

    assert (found.verdict, found.overall.attainment_ratio) == ("pass", 1.0)


def test_tokens_that_the_server_does_not_tell_keep_no_limit() -> None:
    records = [record(0, itl_s=[0.01]), record(1, itl_s=[0.01], output_tokens=None)]

    found = summary(records, {"request": {"tpot_ms": 50}})

    assert found.overall.attainment_ratio == 0.5


def test_a_limit_of_which_nothing_was_measured_is_not_met() -> None:
    slo = {"request": {"ttft_ms": 1000}, "percentiles": {"itl_ms": {"p99": 50}}}

    found = summary([record(is_stream=False)], slo)

    assert found.verdict == "fail"
    assert found.reasons == (
        "request.ttft_ms: nothing was measured, so its limit of 1000 is not met",
        "percentiles.itl_ms.p99: nothing was measured, so its limit of 50 is not met",
    )


def test_an_slo_for_a_part_that_the_workload_does_not_have_is_not_met() -> None:
    slo = {"traffic": {"chta": {"request": {"ttft_ms": 1000}, "goodput_rps": 1}}}

    found = summary([record()], slo)

    assert found.verdict == "fail"
    assert all(not check.met for check in found.checks if check.what.startswith("traffic.chta."))


def test_no_slo_no_verdict() -> None:
    found = summary([record()])

    assert (found.verdict, found.reasons) == ("none", ("no SLO was given",))


def test_all_that_is_asked_is_kept() -> None:
    slo = {
        "request": {"ttft_ms": 100}, "percentiles": {"latency_ms": {"p99": 200}},
        "goodput_rps": 0.1, "output_tokens_per_s": 0.1,
    }  # fmt: skip

    found = summary([record()], slo)

    assert (found.verdict, found.reasons) == ("pass", ("all of the SLO is met: 5 of 5 checks",))


def test_reasons_name_the_numbers_the_worst_first() -> None:
    slo = {"percentiles": {"latency_ms": {"p99": 150}}, "failed_ratio": 0, "goodput_rps": 1}

    found = summary([record(0), failed(1)], slo)

    assert found.verdict == "fail"
    assert found.reasons == (
        "failed_ratio is 0.5, more than 0",
        "goodput_rps is 0.1, less than 1",
        "percentiles.latency_ms.p99 is 200, more than 150",
    )


def asked_for(num_tokens: int, output_tokens: int | None, **fields: Any) -> Record:
    """An answer that was to have a length exactly."""
    planned = {"planned_output_tokens": num_tokens, "ignore_eos": True}
    return record(output_tokens=output_tokens, **{**planned, **fields})


EARLY = (
    "2 of 5 completed answers ended before the length that was asked for, with 7.5 % of its tokens "
    "on average, so that figures are of less work than was planned: the server may not know "
    "ignore_eos"
)


@pytest.mark.parametrize(
    ("slo", "verdict", "first"),
    [
        (None, "none", "no SLO was given"),
        ({"request": {"ttft_ms": 100}}, "pass", "all of the SLO is met: 2 of 2 checks"),
        ({"goodput_rps": 9}, "fail", "goodput_rps is 0.5, less than 9"),
    ],
)
def test_answers_that_ended_early_are_named_beside_the_verdict(
    slo: Mapping[str, Any] | None, verdict: str, first: str
) -> None:
    answers = [asked_for(200, 10), asked_for(100, 10), asked_for(100, 100), record(), record()]

    found = summary([*answers, asked_for(100, 3, cancelled=True)], slo)

    assert (found.verdict, found.reasons) == (verdict, (first, EARLY))
    assert found.overall.ended_early == 2
    assert found.overall.early_length_ratio == pytest.approx(0.075)


@pytest.mark.parametrize(
    "answer",
    [
        asked_for(100, 99),  # its last token is not counted by every server
        asked_for(100, 101),
        asked_for(2, 1),
        asked_for(100, None),
        asked_for(100, 5, ignore_eos=False),
        asked_for(100, 5, cancelled=True),
        asked_for(100, 5, error="truncated"),
    ],
)
def test_what_may_be_shorter_did_not_end_early(answer: Record) -> None:
    found = summary([record(), answer])

    assert found.reasons == ("no SLO was given",)
    assert (found.overall.ended_early, found.overall.early_length_ratio) == (0, None)


def test_a_run_without_requests_fails() -> None:
    found = summary([], {"request": {"ttft_ms": 1}}, duration_s=0.0)

    assert (found.verdict, found.reasons) == ("fail", ("no request was due",))
    assert found.parts == ()
    assert not any(check.met for check in found.checks)


@pytest.mark.parametrize("slo", [None, {"request": {"ttft_ms": 1}}])
def test_a_run_that_completed_nothing_fails(slo: Mapping[str, Any] | None) -> None:
    records = [failed(0, "connect"), failed(1, "connect"), record(2, cancelled=True)]

    found = summary(records, slo)

    assert found.verdict == "fail"
    assert found.reasons[0] == (
        "none of 3 requests was completed: 2 connect, 1 cancelled by the workload"
    )


@pytest.mark.parametrize("slo", [None, {"failed_ratio": 0.0}])
def test_a_generator_that_sends_late_gets_no_verdict(slo: Mapping[str, Any] | None) -> None:
    found = summary([record(send_lag_s=0.006)], slo)

    assert found.verdict == "invalid"
    assert found.reasons == (
        "the generator was the bottleneck: requests were sent late: p99 of the send lag is 6 ms, "
        "more than 5 ms",
    )


def test_lag_is_judged_by_what_is_measured() -> None:
    assert summary([record(send_lag_s=0.009, ttft_s=0.2, latency_s=1.0)]).verdict == "none"
    assert summary([record(send_lag_s=0.011, ttft_s=0.2, latency_s=1.0)]).verdict == "invalid"
    answered = record(send_lag_s=0.04, is_stream=False, ttft_s=None, latency_s=1.0)
    assert summary([answered]).verdict == "none"


def test_a_busy_worker_and_a_late_one_get_no_verdict() -> None:
    busy = WorkerFigures(host="b", cpu_ratio=0.95, loop_lag_p99_ms=1.0)
    late = WorkerFigures(host="l", cpu_ratio=0.5, loop_lag_p99_ms=50.0)

    found = summary([record()], workers=[CALM, busy, late])

    assert found.verdict == "invalid"
    assert found.reasons == (
        "the generator was the bottleneck: worker 2 on l read late: p99 of its event loop's lag "
        "is 50 ms, more than 5 ms",
        "the generator was the bottleneck: worker 1 on b was busy: its share of a core is 0.95, "
        "more than 0.9",
    )


def test_the_last_line_has_its_shape_whatever_was_measured() -> None:
    nothing = {"p50": None, "p90": None, "p99": None}
    assert last_line(summary([failed()])) == {
        "requests": 1, "completed": 0, "failed": 1, "ttft_ms": nothing, "itl_ms": nothing,
        "goodput_rps": 0.0, "verdict": "fail",
    }  # fmt: skip
    assert last_line(summary([record(itl_s=[0.02])])) == {
        "requests": 1, "completed": 1, "failed": 0,
        "ttft_ms": {"p50": 100.0, "p90": 100.0, "p99": 100.0},
        "itl_ms": {"p50": 20.0, "p90": 20.0, "p99": 20.0},
        "goodput_rps": 0.1, "verdict": "none",
    }  # fmt: skip


def test_a_summary_comes_back_from_its_file() -> None:
    slo = {"request": {"ttft_ms": 1}, "traffic": {"chat": {"goodput_rps": 1}}}
    made = summary([record(0, itl_s=[0.1]), failed(1)], slo)

    assert from_json(to_json(made)) == made


@pytest.mark.parametrize("document", [b"", b"{}", b'{"duration_s": "x"}'])
def test_what_is_no_summary_is_refused(document: bytes) -> None:
    with pytest.raises(ConfigError, match="no summary of a run"):
        from_json(document)


def test_records_of_a_file_are_as_good_as_those_of_a_run(tmp_path: Any) -> None:
    records = frame([record(0, itl_s=[0.1]), failed(1)])
    records.write_parquet(tmp_path / "r.parquet")

    read_back = pl.read_parquet(tmp_path / "r.parquet")

    assert summarize(read_back, duration_s=1.0, slo=None, workers=[]) == summarize(
        records, duration_s=1.0, slo=None, workers=[]
    )


def test_a_run_that_was_stopped_has_no_verdict() -> None:
    """What waited for an answer has no record, and that is what takes long."""
    quick = [record(due_s=index * 0.1) for index in range(20)]
    found = summarize(
        frame(quick),
        duration_s=2.0,
        slo=Slo.model_validate({"goodput_rps": 1}),
        workers=(),
        is_whole=False,
    )

    assert found.verdict == "invalid"
    assert "not whole" in found.reasons[0]
    assert found.overall.completed == 20


def test_later_turns_count_where_they_are_due() -> None:
    """Sessions began within 3 s; their turns went on for six."""
    talk = [record(session=0, turn=turn, due_s=turn * 1.2) for turn in range(6)]
    found = summarize(frame(talk), duration_s=3.0, slo=None, workers=())

    assert found.overall.offered_rps == pytest.approx(1.0)
