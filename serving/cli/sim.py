"""`galerne sim`: the simulated engine by itself."""

from __future__ import annotations

import asyncio
import os
import time
from random import Random
from typing import Annotated, Any

import typer
import uvicorn
import yaml
from prometheus_client import REGISTRY

from serving.adapters.probe_client import Endpoint, connected
from serving.adapters.settings_loader import override_settings
from serving.adapters.state_paths import StatePaths
from serving.adapters.weights import resolve_weights
from serving.cli.console import err, print_json, progress
from serving.cli.options import read_settings
from serving.core.types import ModelId
from serving.errors import ConfigError
from serving.settings.model import ModelSettings
from serving.settings.simulator import TimingSettings
from serving.simulator.calibration import (
    Calibration,
    EngineLimits,
    Tell,
    fit_timing,
    plan_probes,
    run_probes,
)
from serving.simulator.launch import build_engine

app = typer.Typer(help="Run the simulated engine by itself.", no_args_is_help=True)

_PRESET_MODEL = "sim"


@app.callback()
def _group() -> None:
    """Run the simulated engine by itself."""


@app.command()
def serve(
    port: Annotated[int, typer.Option(help="TCP port.")] = 8001,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    model: Annotated[str, typer.Option(help="The served name.")] = _PRESET_MODEL,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", "-s", metavar="PATH=VALUE", help="A setting of the model; VALUE is YAML."
        ),
    ] = None,
) -> None:
    """Serve one simulated engine in vLLM's place, without Ray, gateway or API keys.

    For tests of clients, routers and load generators: anything that speaks to `vllm serve`.

    **Examples**

    `galerne sim serve --port 8001`

    `galerne sim serve --set simulator.timing.step_s=0.02 --set engine.max_num_seqs=8`
    """
    settings = model_settings(overrides or [])
    asyncio.run(_serve(settings, model=model, host=host, port=port))


@app.command()
def calibrate(
    endpoint: Annotated[str, typer.Option(help="URL of a running engine, or of Galerne.")],
    model: Annotated[str, typer.Option(help="The served name.")],
    api_key_env: Annotated[
        str | None,
        typer.Option(metavar="VAR", help="Environment variable that holds the API key, if any."),
    ] = None,
    chunk_tokens: Annotated[
        int, typer.Option(min=16, help="The engine's max_num_batched_tokens.")
    ] = 2048,
    window: Annotated[
        int | None,
        typer.Option(min=1, help="The model's sliding window in tokens. [default: none]"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with every measurement.")
    ] = False,
) -> None:
    """Measure a real engine; print the `timing` with which a simulated one is as fast.

    Nothing else should use the engine meanwhile. Takes about a minute on a CPU, less on a GPU.

    **Examples**

    `galerne sim calibrate --endpoint http://127.0.0.1:8000 --model demo --api-key-env GALERNE_KEY
    --chunk-tokens 256 --window 512`
    """
    target = Endpoint(endpoint, model, api_key_in(api_key_env))
    with progress("measuring") as tell:
        found = asyncio.run(measure_timing(target, chunk_tokens, window, tell))
    if as_json:
        print_json({"timing": found.timing.model_dump(mode="json"), "fit": _fit(found)})
        return
    err.print(f"the model is within {found.worst_error_ratio:.0%} of every probe's median")
    print(yaml.safe_dump(timing_document(model, found.timing), sort_keys=False), end="")


def timing_document(model: str, timing: TimingSettings) -> dict[str, Any]:
    """Settings that give this timing to a simulated model, to be merged over others."""
    return {"models": {model: {"simulator": {"timing": timing.model_dump(mode="json")}}}}


async def measure_timing(
    target: Endpoint, chunk_tokens: int, window: int | None, tell: Tell
) -> Calibration:
    """The timing of the engine there, from a minute of short streams.

    Raises:
        ConfigError: it cannot be reached, refuses, or is too irregular to tell.
    """
    async with connected(target) as client:
        limits = EngineLimits(chunk_tokens, window, await client.max_model_len())
        probes = plan_probes(limits)
        # Fresh words each time: the engine may remember those of an earlier run.
        measured = await run_probes(probes, client.stream, rng=Random(), tell=tell)  # noqa: S311 (no secret)
    return fit_timing(measured, limits)


def api_key_in(variable: str | None) -> str | None:
    """What the environment variable holds, `None` if none is named.

    Raises:
        ConfigError: it holds nothing.
    """
    if variable is None:
        return None
    if not (key := os.environ.get(variable)):
        raise ConfigError(
            f"the environment variable {variable} holds no API key",
            code="api_key_missing",
            param="api-key-env",
            hint="give the variable's name, not the key, and export it",
        )
    return key


def _fit(found: Calibration) -> dict[str, Any]:
    pairs = zip(found.measurements, found.modelled_s, strict=True)
    return {
        "worst_error_ratio": round(found.worst_error_ratio, 4),
        "probes": [
            {
                "name": measured.probe.name,
                "count": len(measured.seconds),
                "median_s": measured.median_s,
                "modelled_s": modelled,
            }
            for measured, modelled in pairs
        ],
    }


def model_settings(overrides: list[str]) -> ModelSettings:
    """The `sim` preset's model with overrides whose paths begin below it.

    Raises:
        ConfigError: as `load_settings`.
    """
    preset = read_settings("sim", config=None, overrides=())
    words = [f"models.{_PRESET_MODEL}.{override}" for override in overrides]
    return override_settings(preset.model_dump(mode="json"), words).models[_PRESET_MODEL]


async def _serve(settings: ModelSettings, *, model: str, host: str, port: int) -> None:
    paths = StatePaths.from_environment()
    folder = resolve_weights(settings.weights, paths) if settings.weights else None
    engine = build_engine(ModelId(model), settings, folder, registry=REGISTRY, clock=time.monotonic)
    engine.loop.start()
    err.print(f"[green]simulated engine[/green] {model} at http://{host}:{port}/v1")
    config = uvicorn.Config(engine.app, host=host, port=port, log_config=None, access_log=False)
    await uvicorn.Server(config).serve()
