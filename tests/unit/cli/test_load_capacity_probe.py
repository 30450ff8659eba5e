"""What a probe of a search for capacity sends, and which ones are refused or doubted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.generator.run import Plan
from loadtest.generator.target import Target
from loadtest.records import Record, frame
from loadtest.verdict.capacity import CapacitySearch
from loadtest.verdict.slo import Slo
from loadtest.verdict.summarize import summarize
from loadtest.verdict.summary import Distribution, Part, Summary
from loadtest.workload.spec import to_workload
from serving.cli.load_capacity_probe import doubt, probe_at, too_small
from serving.errors import ConfigError


def plan(*, duration_s: float | None = 60.0, seed: int = 0, **changes: Any) -> Plan:
    traffic = {"model": "m", "arrivals": "poisson:1", "prompt_tokens": 8, "output_tokens": 1}
    document = {"seed": seed, "duration_s": duration_s, "traffic": {"load": {**traffic, **changes}}}
    return Plan(Target.parse("http://127.0.0.1:1"), to_workload(document))


def replay(folder: Path, *, num: int, every_s: float) -> Plan:
    lines = [{"at_s": n * every_s, "prompt_tokens": 8, "output_tokens": 1} for n in range(num)]
    path = folder / "trace.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    arrivals = {"process": "trace", "path": path, "format": "galerne"}
    traffic = {"load": {"model": "m", "arrivals": arrivals}}
    return Plan(Target.parse("http://127.0.0.1:1"), to_workload({"traffic": traffic}))


def due_s(probe: Plan) -> list[float]:
    return [session.at_s for session in probe.workload.sessions(probe.rate_scale)]


def passed(probe: Plan, latency_ms: float) -> Summary:
    latency = Distribution(9, *[latency_ms] * 6)
    part = Part("all", 9, 9, 0, 0, 1.0, 1.0, 1.0, 1.0, 9, 0, 9, latency_ms=latency)
    planned_s = probe.workload.planned_s(probe.rate_scale)
    return Summary(planned_s, part, (part,), (), "pass", ())


def test_repeats_of_a_rate_are_other_draws_that_can_be_had_again() -> None:
    first, second, again = (probe_at(plan(seed=7), 5.0, num_tried=n) for n in (0, 1, 1))

    assert [probe.workload.seed for probe in (first, second)] == [7, 8]
    assert due_s(first) != due_s(second)
    assert due_s(second) == due_s(again)


def test_the_rate_is_what_is_planned() -> None:
    probe = probe_at(plan(arrivals="step:1x60,100x60"), 50.0, num_tried=0)

    assert len(due_s(probe)) == pytest.approx(50 * 60, rel=0.1)


def refused(probe: Plan) -> ConfigError:
    refusal = too_small(probe)
    assert refusal is not None
    return refusal


def test_a_trace_is_not_played_so_fast_that_no_queue_would_show(tmp_path: Path) -> None:
    traced = replay(tmp_path, num=51, every_s=1.0)

    assert too_small(probe_at(traced, 5.0, num_tried=0)) is None
    refusal = refused(probe_at(traced, 200.0, num_tried=0))
    assert "at 200 requests/s the trace is over in 0.255 s" in refusal.message
    assert refusal.param == "--start"


@pytest.mark.parametrize(
    ("changes", "rate", "words"),
    [
        ({"duration_s": 1.0}, 0.05, "at 0.05 requests/s about 0.05 requests are due within 1 s"),
        ({"turns": 4}, 0.1, "at 0.1 sessions/s about 6 sessions are due within 60 s"),
        ({"arrivals": "gamma:1:100"}, 0.2, "too few to tell"),
    ],
)
def test_too_few_requests_tell_nothing(changes: dict[str, Any], rate: float, words: str) -> None:
    refusal = refused(probe_at(plan(**changes), rate, num_tried=0))

    assert words in refusal.message
    assert refusal.param == "--duration"


def test_ten_requests_are_enough() -> None:
    assert too_small(probe_at(plan(), 10 / 60, num_tried=0)) is None


@pytest.mark.parametrize(("latency_ms", "is_doubted"), [(2000, False), (3000, True)])
def test_a_probe_that_is_short_beside_its_answers_is_doubted(
    tmp_path: Path, latency_ms: float, *, is_doubted: bool
) -> None:
    for probe in (
        probe_at(plan(duration_s=10.0), 5.0, num_tried=0),
        probe_at(replay(tmp_path, num=51, every_s=1.0), 5.1, num_tried=0),
    ):
        doubted = doubt(probe, passed(probe, latency_ms))
        assert (doubted is not None) == is_doubted


def queued(probe: Plan, *, served_rps: float, slo: Slo) -> Summary:
    """What comes of a probe where requests are served one after another, as fast as that."""
    records, free_s = [], 0.0
    for session in probe.workload.sessions(probe.rate_scale):
        free_s = max(free_s, session.at_s) + 1 / served_rps
        waited_s = free_s - session.at_s
        record = Record(session.index, 0, "load", "m", True, session.at_s, 0.0, 1, ttft_s=waited_s)
        record.latency_s, record.status = waited_s, 200
        records.append(record)
    planned_s = probe.workload.planned_s(probe.rate_scale)
    return summarize(frame(records), duration_s=planned_s, slo=slo, workers=())


def test_another_seed_does_not_find_another_capacity() -> None:
    slo = Slo.model_validate({"request": {"ttft_ms": 300}, "attainment_ratio": 0.9})
    rates, lows, highs = list[float](), list[float](), list[float]()
    for seed in range(0, 60, 10):
        search = CapacitySearch(10.0, 40.0)
        while (rate := search.next_rate()) is not None:
            num_tried = search.num_tried(rate)
            probe = probe_at(plan(duration_s=30.0, seed=seed), rate, num_tried=num_tried)
            summary = queued(probe, served_rps=25.0, slo=slo)
            part = summary.overall
            search.tell(
                rate, summary.verdict, offered_rps=part.offered_rps, goodput_rps=part.goodput_rps
            )
        found = search.result()
        assert found.rate_rps is not None
        assert found.goodput_rps is not None
        rates.append(found.rate_rps)
        lows.append(found.goodput_rps.low)
        highs.append(found.goodput_rps.high)

    # One and the same draw for all probes of a search makes them 16.8 to 22.8.
    assert max(rates) < 1.1 * min(rates)
    assert max(lows) < min(highs)
