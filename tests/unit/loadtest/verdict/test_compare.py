"""Two runs compared: what is the same, what differs, and what cannot be told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from loadtest.about import About, WorkerFigures
from loadtest.records import SCHEMA
from loadtest.verdict.compare import Comparison, Side, compare
from loadtest.verdict.effects import Effect
from loadtest.verdict.gate import gate
from loadtest.verdict.slo import Slo

TURNS = 2
CALM = WorkerFigures(host="h", cpu_ratio=0.1, loop_lag_p99_ms=0.5)


def about(title: str = "run", *, seed: int = 1, **fields: Any) -> About:
    known: dict[str, Any] = {"workload": {"rate": 10}, "workers": (CALM,), **fields}
    return About(
        url="http://x", title=title, started_at="2026-01-01T00:00:00", duration_s=60.0,
        seed=seed, **known,
    )  # fmt: skip


def records(num_requests: int, *, seed: int, slower: float = 1.0, like: int = 0) -> pl.DataFrame:
    """Streams of two-turn sessions with log-normal times. Half of what makes one request slower
    than another is the request itself, the same for equal `like`."""
    rng, of_request = np.random.default_rng(seed), np.random.default_rng(like)
    place = np.arange(num_requests)
    spread = 0.5 * (of_request.standard_normal(num_requests) + rng.standard_normal(num_requests))
    ttft_s = 0.2 * slower * np.exp(spread)
    columns = {
        "session": place // TURNS, "turn": place % TURNS, "due_s": place * 0.1, "ttft_s": ttft_s,
        "latency_s": 3 * ttft_s, "itl_s": [[0.5 * t, t] for t in ttft_s],
    }  # fmt: skip
    constant = {
        "traffic": "chat", "model": "m", "is_stream": True, "send_lag_s": 0.0,
        "planned_output_tokens": 3, "ignore_eos": True, "output_tokens": 3, "status": 200,
        "cancelled": False,
    }  # fmt: skip
    made = pl.DataFrame(columns).with_columns(**{k: pl.lit(v) for k, v in constant.items()})
    missing = {name: pl.lit(None) for name in SCHEMA if name not in made.columns}
    return made.with_columns(**missing).select(*SCHEMA).cast(SCHEMA)


def failing(run: pl.DataFrame, every: int) -> pl.DataFrame:
    fails = pl.int_range(pl.len()) % every == 0
    return run.with_columns(
        error=pl.when(fails).then(pl.lit("http_503")),
        **{c: pl.when(~fails).then(pl.col(c)) for c in ("ttft_s", "latency_s", "output_tokens")},
    )


def effect(comparison: Comparison, name: str) -> Effect:
    return next(effect for effect in comparison.effects if effect.name == name)


def test_a_run_does_not_differ_from_itself() -> None:
    side = Side(about(), records(1000, seed=1))

    comparison = compare(side, side)

    assert (comparison.num_pairs, comparison.unpaired) == (1000, None)
    assert {found.conclusion for found in comparison.effects} == {"no difference"}
    assert {(e.change, e.low, e.high) for e in comparison.effects if not e.is_difference} == {
        (1.0, 1.0, 1.0)
    }
    failures = effect(comparison, "failed_ratio")
    assert (failures.change, failures.low, failures.high) == (0.0, 0.0, 0.0)


def test_what_became_slower_is_worse_and_the_shift_within_its_interval() -> None:
    a = Side(about("old"), records(1000, seed=1))
    b = Side(about("new"), records(1000, seed=2, slower=1.2))

    comparison = compare(a, b)

    assert (comparison.a, comparison.b) == ("old", "new")
    for metric in ("ttft_ms", "tpot_ms", "itl_ms", "latency_ms"):
        median = effect(comparison, f"{metric}.p50")
        assert median.conclusion == "worse"
        assert median.low is not None
        assert median.high is not None
        assert 1.0 < median.low <= 1.2 <= median.high < 1.5
    assert {e.conclusion for e in compare(b, a).effects if e.statistic == "p50"} == {"better"}


def test_pairs_tell_more_than_runs_of_different_requests() -> None:
    a, b = records(1000, seed=1), records(1000, seed=2, slower=1.1)
    other = records(1000, seed=2, slower=1.1, like=5)

    paired = effect(compare(Side(about(), a), Side(about(), b)), "ttft_ms.p50")
    unpaired = effect(compare(Side(about(), a), Side(about(seed=2), other)), "ttft_ms.p50")

    assert paired.high is not None
    assert paired.low is not None
    assert unpaired.high is not None
    assert unpaired.low is not None
    assert paired.high - paired.low < 0.85 * (unpaired.high - unpaired.low)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (about(seed=2), "the seeds differ: 1 and 2"),
        (about(workload={"rate": 20}), "the workloads differ"),
        (about(traces={"chat": "0f"}), "the traces differ, though they are at the same path"),
    ],
)
def test_runs_of_different_requests_are_not_paired(other: About, reason: str) -> None:
    run = records(200, seed=1)

    comparison = compare(Side(about(), run), Side(other, run))

    assert (comparison.num_pairs, comparison.unpaired) == (0, reason)
    assert effect(comparison, "ttft_ms.p50").conclusion == "no difference"


def test_runs_at_different_rates_are_not_paired() -> None:
    run = records(200, seed=1)
    faster = run.with_columns(due_s=pl.col("due_s") / 2)

    comparison = compare(Side(about(), run), Side(about(), faster))

    assert comparison.unpaired == "the sessions began at other times, as at another rate"


def test_later_turns_may_be_due_at_other_times() -> None:
    run = records(200, seed=1)
    later = run.with_columns(due_s=pl.col("due_s") + 0.5 * pl.col("turn"))

    assert compare(Side(about(), run), Side(about(), later)).num_pairs == 200


def test_requests_of_a_run_that_was_stopped_are_paired_as_far_as_they_go() -> None:
    run = records(1000, seed=1)

    comparison = compare(Side(about(), run), Side(about(), run.head(300)))

    assert (comparison.num_pairs, comparison.unpaired) == (300, None)
    assert effect(comparison, "ttft_ms.p50").change == 1.0


def test_what_b_gives_up_makes_it_fail_not_faster() -> None:
    run = records(1000, seed=1)

    comparison = compare(Side(about(), run), Side(about(), failing(run, every=10)))

    assert effect(comparison, "ttft_ms.p50").change == 1.0
    failures = effect(comparison, "failed_ratio")
    assert (failures.a, failures.b, failures.conclusion) == (0.0, 0.1, "worse")
    assert failures.low is not None
    assert 0.08 < failures.low <= 0.1
    assert effect(comparison, "goodput_rps").conclusion == "worse"


def test_goodput_is_that_of_the_slo() -> None:
    slo = Slo.model_validate({"request": {"ttft_ms": 200}})
    a, b = records(1000, seed=1), records(1000, seed=2, slower=1.3)

    goodput = effect(compare(Side(about(), a), Side(about(), b), slo=slo), "goodput_rps")

    # Its last turn was due after the 60 s in which sessions began.
    assert goodput.a == pytest.approx(float((a["ttft_s"] <= 0.2).sum()) / 99.9)
    assert goodput.conclusion == "worse"
    assert goodput.in_words().startswith("goodput_rps: worse, ")


@pytest.mark.parametrize(
    ("num_requests", "undecided"),
    [(2 * 9, {"p50", "p99", None}), (499, {"p99"}), (500, set())],
)
def test_too_few_requests_decide_nothing(num_requests: int, undecided: set[str | None]) -> None:
    side = Side(about(), records(num_requests, seed=1))

    found = [e for e in compare(side, side).effects if e.conclusion == "undecided"]

    assert {e.statistic for e in found} == undecided
    assert all(e.reason and "takes" in e.reason and e.change is None for e in found)


def test_runs_of_which_nothing_was_measured() -> None:
    nothing = Side(about(), records(0, seed=1))
    all_failed = Side(about(), failing(records(100, seed=1), every=1))
    run = Side(about(), records(100, seed=1))

    assert {e.conclusion for e in compare(nothing, nothing).effects} == {"undecided"}
    comparison = compare(run, all_failed)
    assert effect(comparison, "ttft_ms.p50").reason == "nothing was measured"
    assert effect(comparison, "failed_ratio").change == 1.0
    assert effect(comparison, "goodput_rps").change == 0.0
    assert comparison.problems == ("B: none of 100 requests was completed: 100 http_503",)
    neither = gate(compare(all_failed, all_failed))
    assert (neither.passed, len(neither.regressions)) == (False, 0)
    reverse = effect(compare(all_failed, run), "goodput_rps")
    assert reverse.reason == "A's is 0, of which nothing is a multiple"


def test_a_generator_that_was_late_is_a_problem_of_the_comparison() -> None:
    run = records(100, seed=1)
    late = about(workers=(CALM.model_copy(update={"loop_lag_p99_ms": 80.0}),))

    comparison = compare(Side(about(), run), Side(late, run))

    assert len(comparison.problems) == 1
    assert comparison.problems[0].startswith("B: the generator was the bottleneck")


def lengths(run: pl.DataFrame, num_tokens: int, *, of: int, ignore_eos: bool) -> pl.DataFrame:
    return run.with_columns(
        output_tokens=pl.lit(num_tokens, pl.Int64),
        planned_output_tokens=pl.lit(of, pl.Int64),
        ignore_eos=pl.lit(ignore_eos),
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_answers_that_should_be_as_long_and_are_not_compare_no_servers(seed: int) -> None:
    """Neither pair by pair nor with other requests of the same workload."""
    run = records(600, seed=1)
    a = Side(about(), lengths(run, 200, of=200, ignore_eos=True))
    b = Side(about(seed=seed), lengths(run, 10, of=200, ignore_eos=True))

    comparison = compare(a, b)

    assert (comparison.unpaired is None) == (seed == 1)
    assert comparison.problems == (
        "answers had 100 % of the tokens that were asked for in A, 5 % in B, so that their work "
        "was not the same",
    )
    (early,) = comparison.notes
    assert early.startswith("B: 600 of 600 completed answers ended before the length")
    assert not gate(comparison).passed


def test_answers_that_end_early_on_both_sides_are_named_and_compared() -> None:
    side = Side(about(), lengths(records(600, seed=1), 10, of=200, ignore_eos=True))

    comparison = compare(side, side)

    assert comparison.problems == ()
    assert [note[:2] for note in comparison.notes] == ["A:", "B:"]
    assert gate(comparison).passed


def test_answers_that_a_model_may_end_are_named_if_their_lengths_differ() -> None:
    run = records(600, seed=1)
    a, b = (Side(about(), lengths(run, n, of=200, ignore_eos=False)) for n in (100, 80))

    comparison = compare(a, b)

    assert comparison.problems == ()
    (note,) = comparison.notes
    assert note.startswith("answers had 50 % of the tokens that were asked for in A, 40 % in B")
    assert compare(a, a).notes == ()


@pytest.mark.parametrize(("num_tokens", "of"), [(9, 10), (1, 2), (191, 200)])
def test_a_token_more_or_a_few_percent_are_the_same_length(num_tokens: int, of: int) -> None:
    run = records(600, seed=1)
    sides = [Side(about(), lengths(run, n, of=of, ignore_eos=True)) for n in (of, num_tokens)]

    for a, b in (sides, sides[::-1]):
        assert compare(a, b).problems == ()


def test_what_was_cancelled_or_failed_has_no_length_to_be_compared() -> None:
    run = lengths(records(600, seed=1), 200, of=200, ignore_eos=True)
    ended = pl.int_range(pl.len()) % 2 == 0
    left = run.with_columns(
        cancelled=ended, output_tokens=pl.when(ended).then(10).otherwise(pl.col("output_tokens"))
    )

    for other in (left, failing(run, every=2)):
        comparison = compare(Side(about(), run), Side(about(), other))
        assert (comparison.problems, comparison.notes) == ((), ())


def test_equal_seeds_give_equal_intervals() -> None:
    a, b = Side(about(), records(300, seed=1)), Side(about(), records(300, seed=2))

    assert compare(a, b, seed=3) == compare(a, b, seed=3)
    assert compare(a, b, seed=3) != compare(a, b, seed=4)


def test_an_effect_in_words() -> None:
    better = Effect("ttft_ms", "p50", 100.0, 50.0, "better", 0.5, 0.4, 0.6)
    failures = Effect("failed_ratio", None, 0.0, 0.01, "worse", 0.01, 0.005, 0.02)

    assert better.in_words() == "ttft_ms.p50: better, 100 became 50: 0.5 times as much (0.4 to 0.6)"
    assert replace(failures, is_difference=True).in_words() == (
        "failed_ratio: worse, 0 became 0.01: +0.01 (+0.005 to +0.02)"
    )
    assert Effect("tpot_ms", "p99", reason="r").in_words() == "tpot_ms.p99: undecided, r"
