"""The command tree."""

from __future__ import annotations

import typer

from serving.cli import config, keys, model, platform

app = typer.Typer(
    name="galerne",
    help="Self-hosted inference for Mistral-style open-weight models.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.command(
    epilog="Examples: `galerne up` · `galerne up --preset gpu --port 8080 --detach` · "
    "`galerne up --set models.demo.engine.max_num_seqs=32`"
)(platform.up)
app.command()(platform.down)
app.command(epilog="Example: `galerne status --json`")(platform.status)
app.add_typer(keys.app, name="keys")
app.add_typer(config.app, name="config")
app.add_typer(model.app, name="model")
