"""`galerne lab`: experiments in virtual time."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from serving.cli.console import err, out, progress
from serving.cli.lab_capacity import capacity
from serving.cli.lab_options import (
    ItlOption,
    ModelSetOption,
    SeedOption,
    TraceFormatOption,
    TraceOption,
    TtftOption,
    simulated_model,
    traced_demand,
)
from serving.errors import ConfigError
from serving.scaling.policy import DEFAULT_QUANTILE

if TYPE_CHECKING:
    from serving.lab.comparison import Comparison
    from serving.lab.scaling import Outcome

app = typer.Typer(help="Experiments in virtual time.", no_args_is_help=True)
app.command()(capacity)


@app.callback()
def _group() -> None:
    """Experiments in virtual time."""


@app.command()
def scaling(  # noqa: PLR0913 - each is an option of the command
    trace: TraceOption = None,
    trace_format: TraceFormatOption = "galerne",
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", help="One to compare; repeatable. [default: all]"),
    ] = None,
    peak_replicas: Annotated[
        int, typer.Option(min=1, max=500, help="What the trace's busiest minute shall need.")
    ] = 20,
    cold_start_s: Annotated[
        float, typer.Option(min=0, help="From a replica's order until it is ready.")
    ] = 120.0,
    ttft_s: TtftOption = 2.0,
    itl_s: ItlOption = 0.08,
    quantile: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Caution of `slo`: how often its forecast shall be enough."
        ),
    ] = DEFAULT_QUANTILE,
    overrides: ModelSetOption = None,
    picture: Annotated[Path | None, typer.Option(help="Draw a PNG.")] = None,
    log: Annotated[Path | None, typer.Option(help="Write every decision and its reason.")] = None,
    seed: SeedOption = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON line per policy.")] = False,
) -> None:
    """Replay a trace on simulated replicas under several scaling policies.

    The trace is scaled until its busiest minute needs --peak-replicas. `slo` is the platform's
    policy, `oracle` knows the future, `ray_default` is Ray Serve's as it comes,
    `ray_default_tuned` the best of it that costs no more than `slo` on other traffic, and
    `keda_threshold` a threshold on the requests in flight.

    **Examples**

    `galerne lab scaling --picture day.png`

    `galerne lab scaling --trace azure_conv.csv --format azure --json`

    `galerne lab scaling --policy slo --policy oracle --cold-start-s 300 --log decisions.jsonl`
    """
    # Its compiler, Ray and the plotting library take seconds to import.
    from serving.lab.comparison import Comparison, Question
    from serving.lab.fleet import Slo

    question = Question(
        simulated_model(overrides),
        Slo(ttft_s=ttft_s, itl_s=itl_s),
        peak_replicas=peak_replicas,
        cold_start_s=cold_start_s,
        quantile=quantile,
        seed=seed,
    )
    demand = None if trace is None else traced_demand(trace, trace_format)
    with progress("measure a replica") as tell:
        comparison = Comparison(question, demand, policy, tell=tell)
        outcomes = []
        for outcome in comparison.outcomes():
            outcomes.append(outcome)
            if as_json:
                print(outcome.to_json(), flush=True)
    if not as_json:
        out.print(_table(outcomes))
    err.print(f"[dim]{comparison.summary}[/dim]", soft_wrap=True)
    _write(comparison, log=log, picture=picture)


def _table(outcomes: Iterable[Outcome]) -> Table:
    table = Table(box=None, header_style="bold")
    for title in ("POLICY", "SLO MISSED", "REPLICA HOURS", "GOODPUT", "TURNS PER 10 MIN"):
        table.add_column(title, justify="left" if title == "POLICY" else "right")
    for row in outcomes:
        table.add_row(
            row.policy,
            f"{row.violation_s:.0f} s",
            f"{row.replica_s / 3600:.1f}",
            f"{row.goodput_ratio:.2%}",
            f"{row.direction_changes_per_10min:.2f}",
        )
    return table


def _write(comparison: Comparison, *, log: Path | None, picture: Path | None) -> None:
    try:
        if log is not None:
            with log.open("w") as file:
                file.writelines(json.dumps(row) + "\n" for row in comparison.decisions())
        if picture is not None:
            from serving.lab.picture import draw

            draw(picture, comparison)
    except OSError as error:
        raise ConfigError(
            f"cannot write {error.filename}: {error.strerror}", code="not_written"
        ) from error
