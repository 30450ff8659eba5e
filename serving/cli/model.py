"""`galerne model`: prepare the demo model, fetch weights, verify any model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from serving.adapters.demo_model import WEIGHTS_NAME, WEIGHTS_SHA256, prepare_demo, require_sha256
from serving.adapters.manifest import MANIFEST_NAME, ManifestEntry, verify_manifest
from serving.adapters.state_paths import StatePaths
from serving.adapters.weights import resolve_weights
from serving.cli.console import err, out, print_json, report
from serving.cli.model_fetch import fetch
from serving.cli.model_progress import model_progress
from serving.errors import ConfigError
from serving.settings.weights import DEMO_SOURCE, WeightSettings

app = typer.Typer(
    no_args_is_help=True,
    help="Prepare the demo model, fetch weights and verify model folders.",
    rich_markup_mode="markdown",
)
app.command(
    epilog="Examples: `galerne model fetch` · "
    "`galerne model fetch --settings /etc/galerne/settings.json --pool h100 --json`"
)(fetch)


@app.command(
    epilog="Examples: `galerne model prepare` · `galerne model prepare demo --rebuild`",
)
def prepare(
    name: Annotated[str, typer.Argument(help="Only `demo` needs preparing.")] = DEMO_SOURCE,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build again even if it is there.")
    ] = False,
) -> None:
    """Build the demo model once (30 s, 270 MB); later calls return at once."""
    _require_demo(name)
    with model_progress() as progress:
        folder = prepare_demo(StatePaths.from_environment(), progress, rebuild=rebuild)
    err.print(f"[green]ready[/green] demo model in {escape(str(folder))}", soft_wrap=True)


@app.command(
    epilog="Examples: `galerne model verify` · "
    "`galerne model verify ~/models/ministral --manifest SHA256SUMS --json`",
)
def verify(
    source: Annotated[
        str, typer.Argument(metavar="demo|PATH", help="`demo`, or a model folder.")
    ] = DEMO_SOURCE,
    manifest: Annotated[
        Path | None,
        typer.Option(help="File in `sha256sum` format; default: SHA256SUMS in the folder."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Compare every weight file with its SHA-256. Exit code 0: all match; 2: they do not."""
    try:
        folder, entries = _verify(source, manifest)
    except ConfigError as error:
        if as_json:
            problem = {"code": error.code, "message": error.message, "hint": error.hint}
            print_json({"verified": False, "error": problem})
        raise typer.Exit(report(error)) from error
    if as_json:
        files = [{"name": entry.name, "sha256": entry.sha256} for entry in entries]
        print_json({"verified": True, "folder": folder, "files": files})
    else:
        for entry in entries:
            out.print(f"[green]ok[/green] {escape(entry.name)}", soft_wrap=True)


@app.command(epilog='Example: `ls "$(galerne model path demo)"`')
def path(name: Annotated[str, typer.Argument(help="Only `demo`.")] = DEMO_SOURCE) -> None:
    """Print the demo model's folder, and nothing else, on stdout; prepare it first if absent."""
    _require_demo(name)
    with model_progress() as progress:
        folder = prepare_demo(StatePaths.from_environment(), progress)
    typer.echo(folder)


def _verify(source: str, manifest: Path | None) -> tuple[Path, tuple[ManifestEntry, ...]]:
    """The folder and its verified files; for the demo model its pinned weights as well."""
    is_demo = source == DEMO_SOURCE
    location = source if is_demo else str(Path(source).expanduser().absolute())
    folder = resolve_weights(WeightSettings(source=location), StatePaths.from_environment())
    chosen = manifest or folder / MANIFEST_NAME
    with model_progress() as progress:
        entries = verify_manifest(folder, chosen, progress)
        if is_demo:
            require_sha256(folder / WEIGHTS_NAME, WEIGHTS_SHA256)
    return folder, entries


def _require_demo(name: str) -> None:
    if name != DEMO_SOURCE:
        raise ConfigError(
            f"no bundled model is called {name!r}",
            code="unknown_bundled_model",
            hint="Only `demo` is bundled. Set weights.source to use any other model.",
        )
