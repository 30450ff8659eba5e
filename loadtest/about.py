"""What a run was: where it went, what was sent, and how the generator fared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from loadtest.whole_file import whole_file

ABOUT_FILE = "run.json"


class WorkerFigures(BaseModel):
    """One worker of the generator. `cpu_ratio` is its CPU time over the run's time, 1 a whole core.
    `loop_lag_p99_ms` is how late its event loop ran, so how late a token may have been noticed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str
    cpu_ratio: float
    loop_lag_p99_ms: float


class About(BaseModel):
    """A run. `workload` and `slo` are the documents that it was made from; `started_at` is in UTC
    as ISO 8601, and `rate_scale` multiplied every rate. `replicas` is how many served the models
    over the run, [(seconds since its beginning, count)], empty where no Prometheus was named.
    `traces` has the SHA-256 of each trace by its part of the workload, since a path may lead to
    another file tomorrow. `is_whole`: it came to its end; `problem` is what ended it early, if
    nobody did.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    title: str
    started_at: str
    duration_s: float
    seed: int
    rate_scale: float = 1.0
    workload: Mapping[str, Any]
    traces: Mapping[str, str] = {}
    slo: Mapping[str, Any] | None = None
    workers: tuple[WorkerFigures, ...] = ()
    machine: Mapping[str, Any] = {}
    replicas: tuple[tuple[float, int], ...] = ()
    is_whole: bool = True
    problem: str | None = None

    def write(self, folder: Path) -> None:
        """Keep it in a result's folder."""
        with whole_file(folder / ABOUT_FILE) as path:
            path.write_text(self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> About:
        """That of a result's folder.

        Raises:
            OSError: there is none.
            ValidationError: it is of another format.
        """
        return cls.model_validate_json((folder / ABOUT_FILE).read_text())
