"""`galerne plan`: what fits, before anything is started."""

from __future__ import annotations

import typer

from serving.cli.plan_kv import kv

app = typer.Typer(
    help="Plan a deployment without starting anything.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.command(
    epilog="Examples: `galerne plan kv --config demo --kv-bytes 1GiB --max-model-len 4096 "
    "--chunk-tokens 256 --json` · `galerne plan kv --config ~/models/ministral/params.json "
    "--device gpu --kv-bytes 40GiB` · `galerne plan kv --config mistral-small-3.1-24b "
    "--device gpu --tensor-parallel 2 --kv-dtype fp8 --kv-bytes 40GiB --max-model-len 32768`"
)(kv)


@app.callback()
def _group() -> None:
    """Plan a deployment without starting anything."""
