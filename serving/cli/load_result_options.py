"""Options of `galerne load` on what comes back: how it is judged, and where it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from serving.errors import ConfigError

EXIT_STATUS = (
    "Exit status: 0 the SLO is met or none was given, 1 it is not met or the test failed, "
    "2 wrong usage, 4 the generator was the bottleneck, 130 interrupted."
)
GATE_STATUS = (
    "Exit status: 0 nothing is worse for certain, 1 something is or nothing can be told, "
    "2 wrong usage."
)

SloOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="SLO as YAML; without one there is no verdict.", show_default=False
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="Folder for the report and its figures. [default: galerne-load-TIME]",
        show_default=False,
    ),
]
LastLineOption = Annotated[
    bool, typer.Option("--json", help="Print one line of JSON as the last one.")
]


@dataclass(frozen=True, slots=True)
class Reporting:
    """What becomes of a run."""

    out_folder: OutOption = None
    title: Annotated[str, typer.Option(help="Of the report.")] = "Load test"
    prometheus: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A Prometheus that scrapes the platform: the report then shows replicas.",
            show_default=False,
        ),
    ] = None
    as_json: LastLineOption = False


@dataclass(frozen=True, slots=True)
class Search:
    """How a capacity is searched."""

    start_rps: Annotated[
        float, typer.Option("--start", min=1e-3, help="Rate that is tried first, per second.")
    ] = 1.0
    max_rps: Annotated[
        float, typer.Option("--max", min=1e-3, help="Highest rate that is tried.")
    ] = 1000.0
    precision: Annotated[
        float,
        typer.Option(min=0.001, max=1, help="How far above a rate may be that does not hold."),
    ] = 0.05
    repeats: Annotated[int, typer.Option(min=1, max=20, help="Runs at the rate found.")] = 3


@dataclass(frozen=True, slots=True)
class Judging:
    """When B counts as worse."""

    max_regression: Annotated[
        float, typer.Option(min=1, help="How many times as long anything may take.")
    ] = 1.05
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIGURE=RATIO",
            help="Another limit for one figure, such as ttft_ms.p99=1.3. Repeatable.",
            show_default=False,
        ),
    ] = None

    def to_tolerances(self) -> dict[str, float]:
        """By figure.

        Raises:
            ConfigError: one is not FIGURE=RATIO.
        """
        found = {}
        for text in self.tolerance or ():
            name, _, value = text.partition("=")
            try:
                found[name] = float(value)
            except ValueError:
                raise ConfigError(
                    f"{text!r} is not FIGURE=RATIO", code="bad_option", param="--tolerance"
                ) from None
        return found
