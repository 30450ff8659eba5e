"""`galerne load`: load tests that end in a verdict."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Annotated

import typer
from rich.markup import escape

from serving.cli.console import err
from serving.cli.load_capacity import capacity
from serving.cli.load_compare import ab, compare
from serving.cli.load_result_options import EXIT_STATUS, GATE_STATUS, Reporting, SloOption
from serving.cli.load_sending_options import Sending, make_plan
from serving.cli.load_workload_options import Asked
from serving.cli.option_groups import grouped
from serving.errors import ConfigError

app = typer.Typer(help="Load tests that end in a verdict.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Load tests that end in a verdict."""


@app.command(epilog=EXIT_STATUS)
@grouped
def run(
    sending: Sending,
    asked: Asked,
    reporting: Reporting,
    slo: SloOption = None,
) -> None:
    """Send requests when they are due, whatever the answers do, and judge what comes back.

    Latencies count from when a request was due, so that a server that stops is slow for everyone
    who came meanwhile. The report is a page to look at, `report.html`; `records.parquet` has every
    request.

    **Examples**

    `galerne load run --url http://127.0.0.1:8000 --arrivals poisson:5 --slo slo.yaml`

    `galerne load run --url $URL --trace conversation.jsonl --speed 2 --limit 1000 --json`

    `galerne load run --url $URL --workload loadtest/workloads/chat.yaml --workers 2`
    """
    # Tables, plots and event loops take a second to import.
    from loadtest.verdict.slo import read_slo
    from serving.cli.load_run import new_results, perform, print_summary, with_replicas

    limits = None if slo is None else read_slo(slo)
    with new_results(reporting.out_folder) as folder:
        plan = replace(make_plan(sending, asked), title=reporting.title)
        outcome = perform(plan, limits)
        # A verdict is not lost to a full disk, nor to Ctrl-C while the report is drawn.
        print_summary(outcome, as_json=reporting.as_json)
        if reporting.prometheus is not None:
            outcome = with_replicas(outcome, reporting.prometheus)
        outcome.write(folder)
    err.print(f"[dim]report  {escape(str(folder / 'report.html'))}[/dim]", soft_wrap=True)
    sys.exit(outcome.exit_code)


app.command(epilog=EXIT_STATUS)(capacity)
app.command(epilog=GATE_STATUS)(compare)
app.command(epilog=GATE_STATUS)(ab)


@app.command()
def worker(
    join: Annotated[
        str, typer.Option(metavar="URL", help="The coordinator's address.", show_default=False)
    ],
) -> None:
    """Send a share of a load test that `galerne load run --listen` coordinates.

    It shows the coordinator the secret in GALERNE_LOAD_TOKEN, and the endpoint the API key in
    GALERNE_API_KEY. One per core is right. It waits a minute for a coordinator that is away, and
    joins every run of `capacity` and `ab`; it ends a minute after the last of those.

    **Example**

    `galerne load worker --join http://coordinator:8089`
    """
    from loadtest.generator.keys import secret_in
    from loadtest.generator.messages import TOKEN_VARIABLE
    from loadtest.generator.worker import run_worker

    if (token := secret_in(TOKEN_VARIABLE)) is None:
        raise ConfigError(
            f"{TOKEN_VARIABLE} is not set",
            code="token_missing",
            hint="it is the secret that the coordinator was started with",
        )
    err.print(f"working for {join}")
    run_worker(join.rstrip("/"), token)
