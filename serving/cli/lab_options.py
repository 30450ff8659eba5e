"""Options that the laboratory's commands share, and the model and the requests they lead to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serving.cli.console import err
from serving.cli.sim import model_settings
from serving.settings.model import ModelSettings

if TYPE_CHECKING:
    from serving.lab.demand import Demand

_CHUNK = "engine.max_num_batched_tokens=1024"
"""Longer chunks of prompts take longer than the time between two tokens that the SLO allows."""

TraceOption = Annotated[
    Path | None,
    typer.Option(help="A file of requests. [default: a made-up day with bursts]"),
]
TraceFormatOption = Annotated[
    str, typer.Option("--format", help="Of the trace: azure, mooncake or galerne.")
]
TtftOption = Annotated[float, typer.Option(min=0.001, help="SLO: TTFT, 99 % of requests.")]
ItlOption = Annotated[
    float, typer.Option(min=0.001, help="SLO: time between tokens, 99 % of them.")
]
ModelSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="PATH=VALUE", help="A setting of the model; VALUE is YAML."
    ),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Of all that is random.")]


def traced_demand(trace: Path, trace_format: str) -> Demand:
    """What a trace asks for; tells how much of it was left out.

    Raises:
        ConfigError: it cannot be read.
    """
    from serving.lab.demand import read_demand  # Its compiler takes seconds to import.

    demand = read_demand(trace, trace_format)
    if demand.num_dropped:
        err.print(f"[dim]{demand.num_dropped:,} requests of length 0 are left out[/dim]")
    return demand


def simulated_model(overrides: Sequence[str] | None) -> ModelSettings:
    """The `sim` preset's model in chunks that the SLO allows, with overrides.

    Raises:
        ConfigError: as `load_settings`.
    """
    return model_settings([_CHUNK, *(overrides or ())])
