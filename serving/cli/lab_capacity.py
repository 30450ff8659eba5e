"""`galerne lab capacity`: what one replica can do, as settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from serving.adapters.settings_sources import read_config
from serving.cli.console import print_json, progress
from serving.cli.lab_options import (
    ItlOption,
    ModelSetOption,
    SeedOption,
    TraceFormatOption,
    TraceOption,
    TtftOption,
    simulated_model,
    traced_demand,
)
from serving.errors import ConfigError

if TYPE_CHECKING:
    from serving.scaling.signals import Capacity


def capacity(  # noqa: PLR0913 - each is an option of the command
    trace: TraceOption = None,
    trace_format: TraceFormatOption = "galerne",
    ttft_s: TtftOption = 2.0,
    itl_s: ItlOption = 0.08,
    timing: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Of a real engine, as `galerne sim calibrate` prints it."
        ),
    ] = None,
    overrides: ModelSetOption = None,
    seed: SeedOption = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure what one replica can do within the SLO; print it as settings.

    Requests as long as the trace's come at random to fleets of simulated replicas, in virtual time,
    more and more of them until the SLO is missed. What is printed belongs under
    `models.NAME.scaling`. Give the engine's own limits with --set: of those that the simulation
    assumes, `engine.max_num_batched_tokens`, `engine.max_num_seqs` and `simulator.kv_blocks`
    matter most.

    **Examples**

    `galerne lab capacity`

    `galerne sim calibrate --endpoint http://gpu-7:8000 --model mistral-7b > timing.yaml`

    `galerne lab capacity --timing timing.yaml --trace azure_conv.csv --format azure
    --set engine.max_num_seqs=128`
    """
    # Its compiler takes seconds to import.
    import numpy as np

    from serving.lab.capacity import measure
    from serving.lab.demand import bursty_day
    from serving.lab.fleet import Slo, rules_of

    model = simulated_model([*_timing(timing), *(overrides or ())])
    slo = Slo(ttft_s=ttft_s, itl_s=itl_s)
    rules = rules_of(model, slo)
    demand = (
        traced_demand(trace, trace_format) if trace else bursty_day(np.random.default_rng(seed))
    )
    with progress("measure a replica"):
        measured = measure(demand, rules, slo, seed=seed)
    document = {"capacity": rounded(measured.capacity)}
    if as_json:
        print_json({**document, "in_flight": round(measured.in_flight, 1)})
        return
    source = trace.name if trace else "a made-up day"
    print(
        f"# {demand.at_s.size:,} requests of {source} in steps of at most "
        f"{rules.max_batched_tokens:,} tokens: TTFT {ttft_s:g} s, {itl_s:g} s between tokens; "
        f"{measured.in_flight:.0f} are in flight then"
    )
    print(yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=200), end="")


def rounded(capacity: Capacity) -> dict[str, float]:
    """The settings' fields, in figures as exact as the measurement."""
    figures = {
        "prompt_token_s": capacity.prompt_token_s,
        "output_token_s": capacity.output_token_s,
        "usable_ratio": capacity.usable_ratio,
        "spread": capacity.spread,
    }
    return {name: float(f"{value:.3g}") for name, value in figures.items()}


def _timing(path: Path | None) -> list[str]:
    """Overrides that give the simulated model the timing of a file.

    Raises:
        ConfigError: the file cannot be read, or holds no timing or several.
    """
    if path is None:
        return []
    try:
        document = read_config(path)
    except ConfigError as error:
        raise ConfigError(error.message, code="timing_unreadable", param="--timing") from error
    found: list[Any] = [document]
    if isinstance(models := document.get("models"), dict):
        found = [one.get("simulator") for one in models.values() if isinstance(one, dict)]
    match found:
        case [{"timing": dict(timing)}]:
            return [f"simulator.timing={json.dumps(timing)}"]
    raise ConfigError(
        f"{path} does not hold the timing of one engine",
        code="timing_unreadable",
        param="--timing",
        hint="galerne sim calibrate --endpoint URL --model NAME > FILE",
    )
