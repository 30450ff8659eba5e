"""The command tree. A command is imported when it is asked for: most need few of the libraries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup
from typer.main import get_group

from serving import __version__


@dataclass(frozen=True, slots=True)
class _Command:
    """Where a command is: a function of a module in this package, or its group `app`."""

    module: str
    name: str
    epilog: str | None = None


_FUNCTIONS = {
    "up": _Command(
        "platform",
        "up",
        "Examples: `galerne up` · `galerne up --preset gpu --port 8080 --detach` · "
        "`galerne up --set models.demo.engine.max_num_seqs=32`",
    ),
    "apply": _Command(
        "apply",
        "apply",
        "Examples: `galerne apply --set models.demo.replicas=3` · "
        "`galerne apply --config galerne.yaml`",
    ),
    "down": _Command("down", "down", "Example: `galerne down --drain-timeout 300`"),
    "status": _Command("status", "status", "Example: `galerne status --json`"),
    "route": _Command(
        "route",
        "route",
        'Example: `galerne route --model demo --prompt "What is the capital of France?" --json`',
    ),
}
_GROUPS = ("keys", "config", "model", "metrics", "plan", "sim", "lab", "load", "k8s")
_COMMANDS = _FUNCTIONS | {name: _Command(name, "app") for name in _GROUPS}
_MARKUP: Any = "markdown"


@cache
def _load(name: str) -> Any:
    """The command or group of that name.

    Raises:
        KeyError: there is none.
    """
    command = _COMMANDS[name]
    found = getattr(import_module(f"serving.cli.{command.module}"), command.name)
    parent = typer.Typer(rich_markup_mode=_MARKUP)
    if isinstance(found, typer.Typer):
        parent.add_typer(found, name=name)
    else:
        parent.command(name, epilog=command.epilog)(found)
    return get_group(parent).commands[name]


class _Commands(Mapping[str, Any]):
    """All commands by name, each imported when it is looked up."""

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)

    def __getitem__(self, name: str) -> Any:
        return _load(name)


class _LazyGroup(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = cast(MutableMapping[str, Any], _Commands())


app = typer.Typer(
    cls=_LazyGroup,
    name="galerne",
    help="Self-hosted inference for Mistral-style open-weight models.",
    no_args_is_help=True,
    rich_markup_mode=_MARKUP,
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
