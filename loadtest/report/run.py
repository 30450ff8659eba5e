"""A run that is over, as everything here reads it."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from loadtest.about import About
from loadtest.verdict.measures import measured
from loadtest.verdict.slo import Slo
from loadtest.verdict.summary import Summary


@dataclass(frozen=True, slots=True)
class Run:
    """What it was, what it amounts to, what was asked of it, and its requests as
    `loadtest.verdict.measures.measured` tells what became of each."""

    about: About
    summary: Summary
    slo: Slo | None
    requests: pl.DataFrame

    @classmethod
    def of(cls, *, about: About, summary: Summary, records: pl.DataFrame) -> Run:
        """That of these records.

        Raises:
            ValidationError: its SLO is of another format.
        """
        slo = None if about.slo is None else Slo.model_validate(about.slo)
        return cls(about, summary, slo, measured(records, slo))
