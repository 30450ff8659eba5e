"""Several runs of one workload as one, to be compared with as many of another endpoint's."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from loadtest.verdict.compare import Side

_PAUSE_S = 1.0


def joined(rounds: Sequence[Side]) -> Side:
    """One run after the other; a session of a later round has a number of its own.

    The figures of the workers are those of all rounds, so that one whose generator was the
    bottleneck shows.

    Args:
        rounds: of the same workload, at least one.
    """
    first = rounds[0].about
    # The same for both endpoints, or their requests would not be due at the same times.
    span_s = first.duration_s + _PAUSE_S
    last: int = pl.concat(side.records for side in rounds).select(pl.col("session").max()).item()
    sessions = 1 + (last or 0)
    shifted = [
        side.records.with_columns(
            session=pl.col("session") + number * sessions, due_s=pl.col("due_s") + number * span_s
        )
        for number, side in enumerate(rounds)
    ]
    about = first.model_copy(
        update={
            "duration_s": sum(side.about.duration_s for side in rounds),
            "is_whole": all(side.about.is_whole for side in rounds),
            "workers": tuple(worker for side in rounds for worker in side.about.workers),
        }
    )
    return Side(about, pl.concat(shifted))
