"""What the plots draw, as numbers: a bounded count of points however many requests there were.

`requests` are those of a `Run`. Times of requests are when they were due, in seconds since the
beginning of the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_CURVE_POINTS = 600
_MOST_DOTS = 1500
_MOST_GAPS = 2_000_000
_MOST_BINS = 80
_REQUESTS_PER_BIN = 10


@dataclass(frozen=True, slots=True)
class Bins:
    """Equal slices of time between `edges_s`."""

    edges_s: Floats

    @property
    def width_s(self) -> float:
        """The length of each."""
        return float(self.edges_s[1] - self.edges_s[0])

    @property
    def centres_s(self) -> Floats:
        """The middle of each."""
        return (self.edges_s[:-1] + self.edges_s[1:]) / 2

    def rate(self, at_s: Floats) -> Floats:
        """Events per second in each."""
        return np.histogram(at_s, self.edges_s)[0] / self.width_s

    def quantile(self, at_s: Floats, values: Floats, q: float) -> Floats:
        """Of the values in each, as the summary defines it; `nan` where there are none."""
        order = np.argsort(at_s, kind="stable")
        ends = np.searchsorted(at_s[order], self.edges_s)
        ends[-1] = at_s.size
        return np.array(
            [
                np.quantile(values[order[begin:end]], q) if end > begin else np.nan
                for begin, end in pairwise(ends)
            ]
        )


def bins(requests: pl.DataFrame, duration_s: float) -> Bins:
    """Slices of the time up to the last answer, none so short that it would hold few requests."""
    due_s = finite(requests["due_s"])
    last_s = max(duration_s, due_s.max(initial=1e-3), ends_s(requests).max(initial=0.0))
    count = int(np.clip(min(last_s, requests.height / _REQUESTS_PER_BIN), 1, _MOST_BINS))
    return Bins(np.linspace(0.0, last_s, count + 1))


def finite(column: pl.Series) -> Floats:
    """Its numbers, without nulls and what is no number."""
    return column.filter(column.is_finite()).cast(pl.Float64).to_numpy()


def points(requests: pl.DataFrame, metric: str) -> tuple[Floats, Floats]:
    """When requests were due, and what `metric` was of each, where it was measured."""
    rows = requests.filter(pl.col(metric).is_finite())
    return rows["due_s"].to_numpy(), rows[metric].to_numpy()


def ends_s(requests: pl.DataFrame) -> Floats:
    """When answers ended."""
    return finite(requests.select(pl.col("due_s") + pl.col("latency_s")).to_series())


def some_gaps_ms(requests: pl.DataFrame) -> tuple[Floats, int]:
    """The gaps between the parts of completed streams, those of every n-th stream, and n."""
    rows = requests.filter((pl.col("outcome") == "completed") & pl.col("is_stream"))
    total = int(rows["itl_s"].list.len().sum() or 0)
    step = max(1, -(-total // _MOST_GAPS))
    return finite(rows.gather_every(step)["itl_s"].explode(empty_as_null=False)) * 1000, step


def outstanding(requests: pl.DataFrame) -> tuple[Floats, Floats]:
    """Times, and how many requests were under way from each of them to the next.

    A request is under way from being sent to the end of its answer; one whose end is not known
    is left out. Where there are too many changes to draw, the greatest number stands for each
    slice of time.
    """
    begin, end = pl.col("due_s") + pl.col("send_lag_s"), pl.col("due_s") + pl.col("latency_s")
    known = requests.select(begin=begin, end=end).filter(pl.col("end").is_finite())
    known = known.filter(pl.col("begin") < pl.col("end"))
    at_s = np.concatenate([known["begin"].to_numpy(), known["end"].to_numpy()])
    change = np.repeat([1.0, -1.0], known.height)
    # Of a request that ends as another begins, the end counts first.
    order = np.lexsort((change, at_s))
    return _greatest(at_s[order], np.cumsum(change[order]))


def _greatest(at_s: Floats, values: Floats) -> tuple[Floats, Floats]:
    if at_s.size <= _CURVE_POINTS:
        return at_s, values
    begins = np.linspace(0, at_s.size, _CURVE_POINTS, endpoint=False).astype(int)
    return at_s[begins], np.maximum.reduceat(values, begins)


def cdf(values: Floats) -> tuple[Floats, Floats]:
    """Values in order, and the share in % that is no greater than each. Both ends are exact.

    >>> cdf(np.array([30.0, 10.0]))
    (array([10., 30.]), array([ 50., 100.]))
    """
    ordered = np.sort(values)
    if ordered.size > _CURVE_POINTS:
        # Close together at the upper end: that is what percentiles above p99 are read from.
        share = 1 - np.geomspace(1, 1 / ordered.size, _CURVE_POINTS // 2)
        share = np.union1d(share, np.linspace(0, 1, _CURVE_POINTS // 2))
        places = np.unique(np.rint(share * (ordered.size - 1)).astype(int))
    else:
        places = np.arange(ordered.size)
    return ordered[places], 100 * (places + 1) / max(1, ordered.size)


def dot_step(count: int) -> int:
    """Every how many-th of `count` dots is drawn.

    >>> dot_step(10), dot_step(1_000_000)
    (1, 667)
    """
    return max(1, -(-count // _MOST_DOTS))
