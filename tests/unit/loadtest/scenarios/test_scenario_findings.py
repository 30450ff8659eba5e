"""What scenarios say of made-up runs."""

from array import array
from pathlib import Path

import polars as pl
import pytest

from loadtest.generator.run import Moment
from loadtest.records import Record, frame
from loadtest.scenarios import requests
from loadtest.scenarios.failover import Incident
from loadtest.scenarios.finding import Finding, doubts
from loadtest.scenarios.pictures import Rated, goodput_over_rate
from loadtest.scenarios.stage import Stage
from loadtest.verdict.checks import at_least, at_most
from loadtest.verdict.slo import RequestLimits, Slo
from loadtest.verdict.summarize import summarize
from serving.errors import ConfigError, EngineError

SLO = Slo(request=RequestLimits(ttft_ms=1000))


def _request(due_s: float, *, ttft_s: float = 0.1, latency_s: float = 0.5) -> Record:
    return Record(
        int(due_s * 10), 0, "load", "sim", is_stream=True, due_s=due_s, send_lag_s=0.0,
        planned_output_tokens=2, ttft_s=ttft_s, latency_s=latency_s,
        itl_s=array("f", [latency_s - ttft_s]).tobytes(), output_tokens=2, status=200,
    )  # fmt: skip


def _refused(due_s: float, *, retry_after_s: float | None, status: int = 429) -> Record:
    return Record(
        int(due_s * 10), 0, "load", "sim", is_stream=True, due_s=due_s, send_lag_s=0.0,
        planned_output_tokens=2, latency_s=0.01, status=status, error="engine_overloaded",
        retry_after_s=retry_after_s,
    )  # fmt: skip


def _moment(elapsed_s: float) -> Moment:
    return Moment(elapsed_s, num_sent=0, num_in_flight=0, recent=(), num_joined=1)


def test_refusals_are_told_from_what_is_broken() -> None:
    records = frame(
        [
            _request(0.0),
            _refused(1.0, retry_after_s=2.0),
            _refused(2.0, retry_after_s=None),
            _refused(3.0, retry_after_s=1.0, status=503),
            _refused(4.0, retry_after_s=None, status=500),
        ]
    )

    assert requests.num_refused(records) == 3
    assert requests.num_without_retry_after(records) == 1
    assert requests.num_broken(records) == 1


def test_goodput_counts_what_ended_in_time_and_within_the_slo() -> None:
    good = [_request(at_s / 10) for at_s in range(100)]
    slow = [_request(5.0, ttft_s=3.0, latency_s=4.0)] * 7
    records = frame([*good, *slow])

    # Those due from 1.5 to 9.5 end from 2.0 to 10.0.
    assert requests.goodput_rps(records, SLO, begin_s=2.0, end_s=10.0) == pytest.approx(10.0)


def test_a_share_is_of_those_that_were_answered() -> None:
    answered = [_request(0.0), _request(1.0), _request(2.0), _request(3.0, ttft_s=2.0)]
    records = frame([*answered, _refused(4.0, retry_after_s=1.0)])

    assert requests.attained_ratio(records, SLO) == 0.75
    assert requests.attained_ratio(frame([_refused(4.0, retry_after_s=1.0)]), SLO) is None


def test_the_longest_wait_and_the_worst_gap_are_of_all() -> None:
    records = frame([_request(0.0), _request(1.0, ttft_s=0.2, latency_s=3.2)])

    assert requests.longest_s(records) == 3.2
    assert requests.worst_gap_ms(records) == pytest.approx(3000.0)
    nothing: pl.DataFrame = frame([])
    assert requests.longest_s(nothing) == requests.worst_gap_ms(nothing) == 0.0


def test_refusals_delay_the_way_back() -> None:
    good = [_request(at_s / 10) for at_s in range(300)]
    refused = [_refused(10 + at_s / 10, retry_after_s=1.0) for at_s in range(50)]

    back_s = requests.back_after_s(frame([*good, *refused]), SLO, event_s=10.0, window_s=2.0)

    assert back_s == pytest.approx(4.9)


def test_a_finding_passes_when_every_check_does() -> None:
    checks = (at_most("failed", 0, 0), at_least("goodput_ratio", 0.9, 0.95))
    finding = Finding("overload", {"failed": 0}, checks)

    assert (finding.verdict, finding.exit_code) == ("pass", 0)
    assert finding.reasons == ("2 of 2 checks are met",)


def test_a_finding_says_what_is_missed_and_what_was_not_measured() -> None:
    checks = (at_most("failed", 0, 3), at_least("goodput_ratio", 0.9, None))
    finding = Finding("overload", {"goodput_ratio": 0.123456}, checks)

    assert (finding.verdict, finding.exit_code) == ("fail", 1)
    assert finding.line() == {
        "scenario": "overload",
        "verdict": "fail",
        "reasons": [
            "failed is 3, more than 0",
            "goodput_ratio: nothing was measured, so its limit of 0.9 is not met",
        ],
        "goodput_ratio": 0.1235,
    }


def test_a_late_generator_makes_a_finding_invalid() -> None:
    late = _request(0.0)
    late.send_lag_s = 0.2
    summary = summarize(frame([late]), duration_s=1.0, slo=SLO, workers=())

    finding = Finding("spike", {}, (at_most("failed", 0, 0),), doubts([summary, summary]))

    assert (finding.verdict, finding.exit_code) == ("invalid", 4)
    assert len(finding.reasons) == 1


def test_an_incident_happens_once_and_tells_when() -> None:
    happened = []
    incident = Incident(lambda: happened.append(1), after_s=5.0)

    for elapsed_s in (0.0, 4.9, 5.2, 5.7):
        incident.watch(_moment(elapsed_s))

    assert incident.wait() == pytest.approx(5.2, abs=1.0)
    assert happened == [1]


def test_an_incident_that_never_came_is_an_error() -> None:
    incident = Incident(lambda: None, after_s=5.0)
    incident.watch(_moment(1.0))

    with pytest.raises(EngineError, match="killed"):
        incident.wait()


def test_processes_of_another_machine_cannot_be_watched() -> None:
    from loadtest.generator.target import Target

    stage = Stage(Target("http://far.example"), "m", None, SLO, 10.0, {})

    with pytest.raises(ConfigError, match="not the platform of this machine"):
        stage.local("soak")


def test_goodput_is_drawn_in_order_of_the_rate(tmp_path: Path) -> None:
    plot = goodput_over_rate([Rated(40.0, 18.0), Rated(10.0, 10.0), Rated(20.0, 19.5)])

    (line, _) = plot.figure.axes[0].get_lines()
    assert list(line.get_xdata()) == [10.0, 20.0, 40.0]
    assert "19.5" in plot.alt
