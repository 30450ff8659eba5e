"""Two runs, A and B: what is better or worse in B, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from loadtest.about import About
from loadtest.verdict.checks import (
    NOT_WHOLE,
    bottlenecks,
    early_ends,
    failed_ratio,
    nothing_completed,
    percent,
)
from loadtest.verdict.effects import Effect, concluded
from loadtest.verdict.measures import MOST_UNCOUNTED_TOKENS, measured
from loadtest.verdict.resampling import Floats, Ints, Sample, Seen, clustered, draws
from loadtest.verdict.slo import Slo
from loadtest.verdict.summarize import summarize
from loadtest.verdict.summary import Part

LENGTHS_APART_RATIO = 0.05
"""By what share answers of one side may be shorter than the other's. Further apart they could hide
as much of a regression as a gate tolerates unless told otherwise."""
TIMES = ("ttft_ms", "tpot_ms", "itl_ms", "latency_ms")
STATISTICS = {"p50": 0.5, "p99": 0.99}
LEAST_CLUSTERS = 10
LEAST_BEYOND = 5
"""Values beyond a quantile, without which its interval would be the chance of a few: a p99 takes
500 requests."""

_IS_COUNTED = (pl.col("outcome") == "completed") & pl.col("output_tokens").is_not_null()
_KEY = ("session", "turn")
_MOST_APART_S = 1e-3
_NOTHING = "nothing was measured"


@dataclass(frozen=True, slots=True)
class Side:
    """A run to be compared, as its result's folder keeps it."""

    about: About
    records: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs compared, by their titles.

    `num_pairs` requests were in both. `unpaired` says why requests were not compared one by one, if
    they were not; `problems`, why a run says nothing of its server, or both nothing of each other,
    if so; `notes`, what else is to be known of their answers.
    """

    a: str
    b: str
    num_pairs: int
    unpaired: str | None
    problems: tuple[str, ...]
    effects: tuple[Effect, ...]
    notes: tuple[str, ...] = ()


def compare(a: Side, b: Side, *, slo: Slo | None = None, seed: int = 0) -> Comparison:
    """What is better or worse in B than in A.

    Runs of the same workload with the same seed sent the same requests, which are compared pair by
    pair: what makes one request slower than another is in both, and tells nothing of the servers.
    Times are of requests that both completed; what one gave up counts for its `failed_ratio` and
    goodput. `itl_ms` is the longest gap of a request, as in an SLO's `request`.

    Shorter answers are less work, for a server as a whole too. If they were to have the same length
    and have not, nothing is compared; if the model was free to end them, that is for a person to
    weigh.

    An interval covers what chance made of the requests of these two runs. It does not cover what
    makes one run differ from the next as a whole, such as a noisy neighbour or a warm cache: only
    further runs show that.

    Args:
        slo: of the goodput; without one all completed requests count.
        seed: of the draws; equal seeds give equal intervals.
    """
    unpaired = _why_unpaired(a, b)
    is_paired = unpaired is None
    halves = _halves((a, b), slo, np.random.default_rng(seed), is_paired=is_paired)
    pairs = None if unpaired else _pairs(halves[0].found, halves[1].found)
    times = [effect for metric in TIMES for effect in _times(metric, halves, pairs)]
    return Comparison(
        a=a.about.title,
        b=b.about.title,
        num_pairs=0 if pairs is None else pairs.height,
        unpaired=unpaired,
        problems=(
            *_problems((a, b), halves),
            *_lengths_apart(halves, is_paired=is_paired, ignore_eos=True),
        ),
        effects=(*times, _goodput(halves), _failures(halves)),
        notes=(*_early(halves), *_lengths_apart(halves, is_paired=is_paired, ignore_eos=False)),
    )


@dataclass(frozen=True, slots=True)
class _Half:
    """One side: its requests with the `cluster` of each, its figures, and what is drawn of it,
    [num_draws, num_clusters]. Both sides have the same clusters and draws where they are paired."""

    found: pl.DataFrame
    overall: Part
    drawn: Ints

    def count(self, is_counted: pl.Expr) -> Floats:
        """[num_draws]: how many requests are counted in each draw."""
        kept = self.found.filter(is_counted)["cluster"].to_numpy()
        by_cluster = np.bincount(kept, minlength=self.drawn.shape[1])
        return (self.drawn @ by_cluster).astype(np.float64)


_Sides = tuple[Side, Side]
_Halves = tuple[_Half, _Half]


def _halves(
    sides: _Sides, slo: Slo | None, rng: np.random.Generator, *, is_paired: bool
) -> _Halves:
    found = [measured(side.records, slo) for side in sides]
    if is_paired:
        found = clustered(*found)
        drawn = [draws(rng, *found)] * 2
    else:
        found = [one for side in found for one in clustered(side)]
        drawn = [draws(rng, one) for one in found]
    a, b = (_overall(side, slo) for side in sides)
    return _Half(found[0], a, drawn[0]), _Half(found[1], b, drawn[1])


def _overall(side: Side, slo: Slo | None) -> Part:
    about = side.about
    run = summarize(side.records, duration_s=about.duration_s, slo=slo, workers=about.workers)
    return run.overall


def _why_unpaired(a: Side, b: Side) -> str | None:
    if a.about.workload != b.about.workload:
        return "the workloads differ"
    if a.about.traces != b.about.traces:
        return "the traces differ, though they are at the same path"
    if a.about.seed != b.about.seed:
        return f"the seeds differ: {a.about.seed} and {b.about.seed}"
    columns = [*_KEY, "due_s"]
    both = a.records.select(columns).join(b.records.select(columns), on=_KEY, suffix="_b")
    if both.is_empty():
        return "no request is in both runs"
    # Later turns are due when the answer before has come, first ones when the workload says.
    apart_s = both.filter(turn=0).select((pl.col("due_s") - pl.col("due_s_b")).abs().max()).item()
    if apart_s is None or apart_s > _MOST_APART_S:
        return "the sessions began at other times, as at another rate"
    return None


def _pairs(a: pl.DataFrame, b: pl.DataFrame) -> pl.DataFrame:
    """Requests of both, with A's times and B's, whose names end in `_b`."""
    return a.select(*_KEY, "cluster", *TIMES).join(
        b.select(*_KEY, *TIMES), on=_KEY, suffix="_b", validate="1:1"
    )


def _problems(sides: _Sides, halves: _Halves) -> Iterator[str]:
    for name, side, half in zip("AB", sides, halves, strict=True):
        if not side.about.is_whole:
            yield f"{name}: {NOT_WHOLE}"
        if half.overall.requests and not half.overall.completed:
            yield f"{name}: {nothing_completed(half.overall)}"
        for reason in bottlenecks(half.overall, side.about.workers):
            yield f"{name}: {reason}"


def _early(halves: _Halves) -> Iterator[str]:
    for name, half in zip("AB", halves, strict=True):
        for note in early_ends(half.overall):
            yield f"{name}: {note}"


def _lengths_apart(halves: _Halves, *, is_paired: bool, ignore_eos: bool) -> Iterator[str]:
    """What is to be said if answers have not the same length on both sides: those that were to have
    one exactly, or all others."""
    a, b = (
        half.found.filter(_IS_COUNTED & (pl.col("ignore_eos") == ignore_eos)) for half in halves
    )
    if is_paired:
        a, b = a.join(b, on=_KEY, how="semi"), b.join(a, on=_KEY, how="semi")
    if a.is_empty() or b.is_empty():
        return
    # Shares of what was planned, because requests that are not paired are not the same.
    share_a, share_b = _length_share(a), _length_share(b)
    apart = abs(share_a - share_b)
    apart_tokens = apart * int(a["planned_output_tokens"].sum()) / a.height
    is_apart = apart > LENGTHS_APART_RATIO * max(share_a, share_b)
    if is_apart and round(apart_tokens, 3) > MOST_UNCOUNTED_TOKENS:
        yield (
            f"answers had {percent(share_a)} of the tokens that were asked for in A, "
            f"{percent(share_b)} in B, so that their work was not the same"
        )


def _length_share(found: pl.DataFrame) -> float:
    return int(found["output_tokens"].sum()) / int(found["planned_output_tokens"].sum())


def _times(metric: str, halves: _Halves, pairs: pl.DataFrame | None) -> list[Effect]:
    """The quantiles of one metric."""
    samples = _samples(metric, halves, pairs)
    num_values = min(sample.values.size for sample in samples)
    if not num_values:
        return [Effect(metric, statistic, reason=_NOTHING) for statistic in STATISTICS]
    shares = [*STATISTICS.values()]
    a, b = (sample.seen(shares, half.drawn) for sample, half in zip(samples, halves, strict=True))
    few = _few_sessions(min(sample.num_clusters for sample in samples))
    return [
        concluded(
            Effect(metric, statistic),
            a[place],
            b[place],
            lacking=few or _few_values(num_values, share),
        )
        for place, (statistic, share) in enumerate(STATISTICS.items())
    ]


def _samples(metric: str, halves: _Halves, pairs: pl.DataFrame | None) -> tuple[Sample, Sample]:
    if pairs is None:
        a, b = (half.found.select("cluster", metric).drop_nulls() for half in halves)
    else:
        both = pairs.select("cluster", metric, f"{metric}_b").drop_nulls()
        a, b = both.drop(f"{metric}_b"), both.select("cluster", pl.col(f"{metric}_b").alias(metric))
    return Sample.of(a, metric), Sample.of(b, metric)


def _few_values(num_values: int, share: float) -> str | None:
    least = round(LEAST_BEYOND / (1 - share))
    return f"it is of {num_values} requests and takes {least}" if num_values < least else None


def _few_sessions(num_clusters: int) -> str | None:
    few = num_clusters < LEAST_CLUSTERS
    return f"it is of {num_clusters} sessions and takes {LEAST_CLUSTERS}" if few else None


def _goodput(halves: _Halves) -> Effect:
    a, b = (_goodput_of(half) for half in halves)
    return concluded(Effect("goodput_rps", is_least=True), a, b, lacking=_lacking(halves))


def _goodput_of(half: _Half) -> Seen:
    rate, good = half.overall.goodput_rps, int(half.found["is_good"].sum())
    return Seen(rate, half.count(pl.col("is_good")) * (rate / good if good else 0.0))


def _failures(halves: _Halves) -> Effect:
    asked = Effect("failed_ratio", is_difference=True)
    a, b = (_failures_of(half) for half in halves)
    if a is None or b is None:
        return replace(asked, reason=_NOTHING)
    return concluded(asked, a, b, lacking=_lacking(halves))


def _failures_of(half: _Half) -> Seen | None:
    ratio = failed_ratio(half.overall)
    if ratio is None:
        return None
    failed = half.count(pl.col("outcome") == "failed")
    judged = half.count(pl.col("outcome") != "cancelled")
    return Seen(ratio, failed / np.maximum(judged, 1))


def _lacking(halves: _Halves) -> str | None:
    return _few_sessions(min(half.found["cluster"].n_unique() for half in halves))
