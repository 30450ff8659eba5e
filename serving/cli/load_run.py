"""Running a load test from a terminal: progress while it goes on, then report and verdict."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import polars as pl
import uvloop
from rich.markup import escape
from rich.table import Table

from loadtest.generator.run import Moment, NothingSentError, Plan, Result, Watch, load
from loadtest.generator.tally import Tally, goodness
from loadtest.records import write
from loadtest.report.files import write_report
from loadtest.report.live import Progress, showing
from loadtest.verdict.slo import Slo
from loadtest.verdict.summarize import summarize
from loadtest.verdict.summary import (
    SUMMARY_FILE,
    Distribution,
    Part,
    Summary,
    last_line,
    to_json,
)
from loadtest.whole_file import whole_file
from serving.adapters.prometheus_query import query_series
from serving.cli.console import EXIT_FAILURE, err, out, report, say
from serving.errors import ClusterError, ConfigError, EngineError

EXIT_INVALID = 4
EXIT_INTERRUPTED = 130
_MOST_POINTS = 1000
_STOPPING = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run and what it amounts to."""

    result: Result
    summary: Summary

    @property
    def exit_code(self) -> int:
        """What the process should end with."""
        if not self.result.about.is_whole:
            return EXIT_INTERRUPTED if self.result.about.problem is None else EXIT_FAILURE
        return {"pass": 0, "none": 0, "fail": EXIT_FAILURE, "invalid": EXIT_INVALID}[
            self.summary.verdict
        ]

    def write(self, folder: Path) -> None:
        """Keep everything in a folder, and draw the report.

        Raises:
            EngineError: it cannot be written.
        """
        self.write_figures(folder)
        about, records = self.result.about, self.result.records
        with kept(folder):
            write_report(folder, about=about, summary=self.summary, records=records)

    def write_figures(self, folder: Path) -> None:
        """Keep everything but the report, which takes seconds to draw.

        Raises:
            EngineError: it cannot be written.
        """
        with kept(folder):
            folder.mkdir(exist_ok=True)
            self.result.about.write(folder)
            write(self.result.records, folder)
            with whole_file(folder / SUMMARY_FILE) as path:
                path.write_bytes(to_json(self.summary))


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Around writing results: a full disk and the like are told as what they are.

    Raises:
        EngineError: something cannot be written. It is no wrong usage: requests have been sent.
    """
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:
        raise EngineError(_not_written(folder, error), code="not_written") from error


def results_folder(path: Path | None) -> Path:
    """A folder for results, made if need be, so that a long run does not fail at its end.

    Raises:
        ConfigError: it cannot be written, or holds something else.
    """
    folder = path or Path(f"galerne-load-{datetime.now().astimezone():%Y%m%d-%H%M%S}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(
                f"{folder} is not empty",
                code="results_exist",
                param="--out",
                hint="name another folder: results are never written over",
            )
        (folder / ".probe").touch()
        (folder / ".probe").unlink()
    except OSError as error:
        raise ConfigError(_not_written(folder, error), code="not_written", param="--out") from error
    return folder


@contextmanager
def new_results(path: Path | None) -> Iterator[Path]:
    """`results_folder`; on exit, one that was made here and has got nothing is removed.

    Raises:
        ConfigError: it cannot be written, or holds something else.
    """
    was_there = path is not None and path.exists()
    folder = results_folder(path)
    try:
        yield folder
    finally:
        if not was_there:
            with suppress(OSError):
                folder.rmdir()


def perform(plan: Plan, slo: Slo | None, also: Watch | None = None) -> Outcome:
    """Run a load test, showing how it goes.

    Args:
        also: told each moment of the run, too.

    Raises:
        ServingError: see `loadtest.generator.run.load`.
        KeyboardInterrupt: interrupted twice, or before anything was sent.
    """
    for name, count in plan.workload.num_dropped().items():
        if count:
            say(f"{count:,} requests of length 0 are left out of the trace of {escape(name)}")
    with watching(plan, slo) as show:

        def watch(moment: Moment) -> None:
            show(moment)
            if also is not None:
                also(moment)

        try:
            with _signals_kept():
                result = uvloop.run(_interruptible(plan, watch))
        except (NothingSentError, asyncio.CancelledError):
            raise KeyboardInterrupt from None
    about = result.about
    if slo is not None:
        about = about.model_copy(update={"slo": slo.model_dump(mode="json", exclude_unset=True)})
    summary = summarize(
        result.records,
        duration_s=about.duration_s,
        slo=slo,
        workers=about.workers,
        is_whole=about.is_whole,
    )
    return Outcome(Result(about, result.records), summary)


def with_replicas(outcome: Outcome, prometheus: str) -> Outcome:
    """With how many replicas served the run's models while it went on.

    A Prometheus that does not answer takes nothing from the run but that.
    """
    about = outcome.result.about
    begun = datetime.fromisoformat(about.started_at).timestamp()
    models = "|".join(
        sorted(re.escape(part["model"]) for part in about.workload["traffic"].values())
    )
    gauge = f'galerne_gateway_replicas{{state="heard", model=~{json.dumps(models)}}}'
    step_s = max(about.duration_s / _MOST_POINTS, 1.0)
    try:
        series = query_series(
            prometheus,
            f"sum(max by (model) ({gauge}))",
            span=(begun, begun + about.duration_s),
            step_s=step_s,
        )
    except ClusterError as error:
        report(error)
        return outcome
    replicas = tuple((at - begun, int(count)) for at, count in series)
    known = about.model_copy(update={"replicas": replicas})
    return replace(outcome, result=replace(outcome.result, about=known))


@contextmanager
def watching(plan: Plan, slo: Slo | None) -> Iterator[Watch]:
    """Something to call with each moment of a run, which shows it."""
    tally = Tally(goodness(slo))
    total_s = plan.workload.planned_s(plan.rate_scale)
    num_joined = -1
    with showing(err) as show:

        def watch(moment: Moment) -> None:
            nonlocal num_joined
            for line in moment.news:
                err.print(line, markup=False, soft_wrap=True)
            if plan.listen is not None and moment.num_joined != num_joined:
                num_joined = moment.num_joined
                err.print(f"{num_joined} of {plan.num_workers} workers have joined")
            if moment.num_joined < plan.num_workers:
                return
            tally.add(moment.recent, moment.elapsed_s, num_sent=moment.num_sent)
            recent = tally.recent(moment.elapsed_s)
            show(
                Progress(
                    elapsed_s=moment.elapsed_s,
                    total_s=total_s,
                    offered_rps=recent.offered_rps,
                    in_flight=moment.num_in_flight,
                    completed=tally.num_completed,
                    failed=tally.num_failed,
                    goodput_rps=recent.goodput_rps,
                    ttft_p50_ms=recent.ttft_p50_ms,
                    ttft_p99_ms=recent.ttft_p99_ms,
                    send_lag_ms=recent.send_lag_ms,
                )
            )

        yield watch


def print_summary(outcome: Outcome, *, as_json: bool) -> None:
    """Show what came out, for a person or as one line of JSON."""
    if as_json:
        print(json.dumps(last_line(outcome.summary)), flush=True)
    else:
        out.print(_table(outcome.summary))
    colour = {"pass": "green", "fail": "red", "invalid": "yellow", "none": "dim"}
    verdict = outcome.summary.verdict
    err.print(f"verdict [{colour[verdict]}]{verdict}[/]", highlight=False)
    for reason in outcome.summary.reasons:
        err.print(f"  {reason}", markup=False, soft_wrap=True)
    print_problem(outcome)


def print_problem(outcome: Outcome) -> None:
    """Say what ended a run early, if nobody did."""
    if outcome.result.about.problem is not None:
        err.print("[bold red]error[/bold red] the run is not whole: ", end="")
        err.print(outcome.result.about.problem, markup=False, soft_wrap=True)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """On exit, signals do what they did before: an event loop leaves them to the system."""
    before = {number: signal.getsignal(number) for number in _STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _interruptible(plan: Plan, watch: Watch) -> Result:
    """The run; Ctrl-C once has it end and keep what there is, twice ends it at once."""
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    running = asyncio.ensure_future(load(plan, watch, interrupted))

    def interrupt() -> None:
        if interrupted.is_set():
            running.cancel()
        interrupted.set()

    for number in _STOPPING:
        loop.add_signal_handler(number, interrupt)
    return await running


def _table(summary: Summary) -> Table:
    table = Table(box=None, header_style="bold")
    for title in ("", "P50", "P90", "P99", "MAX"):
        table.add_column(title, justify="right" if title else "left")
    part = summary.overall
    rows = {
        "TTFT ms": part.ttft_ms, "ITL ms": part.itl_ms, "TPOT ms": part.tpot_ms,
        "latency ms": part.latency_ms,
    }  # fmt: skip
    for name, found in rows.items():
        if found is not None:
            table.add_row(name, *_cells(found))
    table.add_section()
    for name, value in (
        ("requests", f"{part.requests}"),
        ("completed", f"{part.completed}"),
        ("failed", f"{part.failed}"),
        ("goodput", f"{part.goodput_rps:.2f}/s of {part.offered_rps:.2f}/s"),
        ("output tokens", _tokens_per_s(part)),
    ):
        table.add_row(name, value)
    return table


def _tokens_per_s(part: Part) -> str:
    if part.output_tokens_per_s is None:
        return "not all answers named them"
    return f"{part.output_tokens_per_s:.0f}/s"


def _cells(found: Distribution) -> list[str]:
    return [f"{value:.1f}" for value in (found.p50, found.p90, found.p99, found.max)]


def _not_written(folder: Path, error: Exception) -> str:
    return f"cannot write results to {folder}: {getattr(error, 'strerror', None) or error}"
