"""`galerne load`: load tests that end in a verdict."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from serving.cli import load_options as options
from serving.cli.console import err
from serving.errors import ConfigError

app = typer.Typer(help="Load tests that end in a verdict.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Load tests that end in a verdict."""


@app.command(epilog=options.EXIT_STATUS)
def run(  # noqa: PLR0913 - each is an option of the command
    url: options.UrlOption,
    key: options.KeyOption = None,
    model: options.ModelOption = None,
    workload: options.WorkloadOption = None,
    trace: options.TraceOption = None,
    trace_format: options.FormatOption = options.DEFAULT_FORMAT,
    speed: options.SpeedOption = None,
    limit: options.LimitOption = None,
    arrivals: options.ArrivalsOption = None,
    duration_s: options.DurationOption = None,
    prompt_tokens: options.PromptOption = None,
    output_tokens: options.OutputOption = None,
    dialect: options.DialectOption = None,
    stream: options.StreamOption = None,
    seed: options.SeedOption = None,
    slo: options.SloOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for the report and its figures. [default: galerne-load-TIME]",
            show_default=False,
        ),
    ] = None,
    title: Annotated[str, typer.Option(help="Of the report.")] = "Load test",
    workers: options.WorkersOption = 1,
    listen: options.ListenOption = None,
    timeout_s: options.TimeoutOption = 300.0,
    tokenizer: options.TokenizerOption = None,
    ca_file: options.CaOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON as the last one.")
    ] = False,
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
    from serving.cli.load_run import perform, print_summary, results_folder

    limits = None if slo is None else read_slo(slo)
    folder = results_folder(out)
    sending = options.Sending(url, key, workers, listen, timeout_s, tokenizer, ca_file)
    asked = options.Asked(
        workload, model, trace, trace_format, speed, limit, arrivals, duration_s, prompt_tokens,
        output_tokens, dialect, stream, seed,
    )  # fmt: skip
    plan = replace(options.make_plan(sending, asked), title=title)
    outcome = perform(plan, limits)
    outcome.write(folder)
    print_summary(outcome, folder, as_json=as_json)
    sys.exit(outcome.exit_code)


@app.command()
def worker(
    join: Annotated[
        str, typer.Option(metavar="URL", help="The coordinator's address.", show_default=False)
    ],
) -> None:
    """Send a share of a load test that `galerne load run --listen` coordinates.

    It shows the coordinator the secret in GALERNE_LOAD_TOKEN, and the endpoint the API key in
    GALERNE_API_KEY. One per core is right.

    **Example**

    `galerne load worker --join http://coordinator:8089`
    """
    from loadtest.generator.messages import TOKEN_VARIABLE
    from loadtest.generator.worker import run_worker

    if not (token := os.environ.get(TOKEN_VARIABLE)):
        raise ConfigError(
            f"{TOKEN_VARIABLE} is not set",
            code="token_missing",
            hint="it is the secret that the coordinator was started with",
        )
    err.print(f"working for {join}")
    run_worker(join.rstrip("/"), token)
