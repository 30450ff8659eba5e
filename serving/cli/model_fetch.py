"""`galerne model fetch`: the weights that this machine's replicas will want."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from serving.adapters.demo_model import prepare_demo
from serving.adapters.model_cache import Progress
from serving.adapters.settings_loader import read_settings_json
from serving.adapters.state_paths import StatePaths
from serving.adapters.weights import resolve_weights
from serving.cli.console import err, out, print_json, report
from serving.cli.model_progress import model_progress
from serving.errors import ConfigError
from serving.settings.platform import Settings
from serving.settings.weights import DEMO_SOURCE, WeightSettings


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one model: its folder, or why there is none."""

    model: str
    folder: Path | None
    error: ConfigError | None

    def document(self) -> dict[str, Any]:
        told: dict[str, Any] = {"model": self.model, "ready": self.error is None}
        if self.error is None:
            return told | {"folder": self.folder}
        problem = {"code": self.error.code, "message": self.error.message, "hint": self.error.hint}
        return told | {"error": problem}


def fetch(
    settings: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Settings as JSON; default: settings.json of the state folder, which "
            "`galerne up` writes.",
        ),
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Only models that run on this pool of nodes (resources.pool)."
        ),
    ] = None,
    best_effort: Annotated[
        bool,
        typer.Option(
            "--best-effort",
            help="End with 0 in any case: a replica fetches what it lacks, and says what is wrong.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Download and verify the weights of all models, as replicas would. Exit code 0: all are there;
    2: some are not, and the others are.

    Simulated models are left out. An init container that runs this lets replicas start at once;
    with `--best-effort`, so that one model's fault keeps no other from its pod.
    """
    paths = StatePaths.from_environment()
    wanted = weights_of(read_settings_json(settings or paths.settings_file), pool=pool)
    with model_progress() as progress:
        outcomes = list(_fetch_all(wanted, paths, progress))
    failed = [outcome.error for outcome in outcomes if outcome.error is not None]
    if as_json:
        models = [outcome.document() for outcome in outcomes]
        print_json({"ready": not failed, "models": models})
    else:
        _print_ready(outcomes, pool=pool)
    if failed:
        status = report(failed[0])
        raise typer.Exit(0 if best_effort else status)


def weights_of(settings: Settings, *, pool: str | None) -> dict[str, WeightSettings]:
    """What an engine loads, by model; of one pool, or of all."""
    return {
        name: model.weights
        for name, model in settings.models.items()
        if model.weights is not None
        and model.simulator is None
        and pool in (None, model.resources.pool)
    }


def _fetch_all(
    wanted: Mapping[str, WeightSettings], paths: StatePaths, progress: Progress
) -> Iterator[_Outcome]:
    """One after the other: each takes all the network there is."""
    for name, weights in wanted.items():
        try:
            if weights.source == DEMO_SOURCE:
                prepare_demo(paths, progress)
            yield _Outcome(name, resolve_weights(weights, paths, progress), None)
        except ConfigError as error:
            yield _Outcome(name, None, _of_model(name, error))


def _of_model(name: str, error: ConfigError) -> ConfigError:
    """The same error, which tells the model."""
    field = f"models.{name}.{error.param or 'weights'}"
    return ConfigError(error.message, code=error.code, param=field, hint=error.hint)


def _print_ready(outcomes: list[_Outcome], *, pool: str | None) -> None:
    for outcome in outcomes:
        if outcome.error is None:
            line = f"[green]ready[/green] {escape(outcome.model)} {escape(str(outcome.folder))}"
            out.print(line, soft_wrap=True)
    if not outcomes:
        where = f" in pool {escape(pool)}" if pool else ""
        err.print(f"nothing to fetch: no model{where} loads weights", soft_wrap=True)
