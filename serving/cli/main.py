"""The command tree."""

from __future__ import annotations

from typing import Annotated

import typer

from serving import __version__
from serving.cli import (
    apply,
    config,
    down,
    k8s,
    keys,
    lab,
    load,
    metrics,
    model,
    plan,
    platform,
    route,
    sim,
)

app = typer.Typer(
    name="galerne",
    help="Self-hosted inference for Mistral-style open-weight models.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"galerne {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    del version


app.command(
    epilog="Examples: `galerne up` · `galerne up --preset gpu --port 8080 --detach` · "
    "`galerne up --set models.demo.engine.max_num_seqs=32`"
)(platform.up)
app.command(
    epilog="Examples: `galerne apply --set models.demo.replicas=3` · "
    "`galerne apply --config galerne.yaml`"
)(apply.apply)
app.command(epilog="Example: `galerne down --drain-timeout 300`")(down.down)
app.command(epilog="Example: `galerne status --json`")(platform.status)
app.command(
    epilog='Example: `galerne route --model demo --prompt "What is the capital of France?" --json`'
)(route.route)
app.add_typer(keys.app, name="keys")
app.add_typer(config.app, name="config")
app.add_typer(model.app, name="model")
app.add_typer(metrics.app, name="metrics")
app.add_typer(plan.app, name="plan")
app.add_typer(sim.app, name="sim")
app.add_typer(lab.app, name="lab")
app.add_typer(load.app, name="load")
app.add_typer(k8s.app, name="k8s")
