"""Groups of options as typer sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from serving.cli.option_groups import grouped


@dataclass(frozen=True, slots=True)
class Place:
    ctx: typer.Context
    name: Annotated[str, typer.Option("--name", "-n")] = "here"
    timeout: Annotated[float, typer.Option()] = 30.0


@dataclass(frozen=True, slots=True)
class FarPlace(Place):
    timeout: Annotated[float, typer.Option()] = 1800.0


def said(*words: str) -> str:
    """What a command says of the options it has got."""
    app = typer.Typer()

    @app.command()
    @grouped
    def show(what: str, loud: bool = False, *, place: FarPlace) -> None:
        print(what, loud, place.name, place.timeout, place.ctx.obj)

    done = CliRunner().invoke(app, words, obj="given")
    return done.output.strip()


def test_a_group_keeps_its_defaults_and_may_change_those_of_another() -> None:
    assert said("all") == "all False here 1800.0 given"


def test_options_of_a_group_stand_among_the_others() -> None:
    assert said("-n", "there", "all", "--timeout", "2", "--loud") == "all True there 2.0 given"
