"""`galerne sim`: the simulated engine by itself."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import typer
import uvicorn
from prometheus_client import REGISTRY

from serving.adapters.settings_files import override_settings
from serving.adapters.state_paths import StatePaths
from serving.adapters.weights import resolve_weights
from serving.cli.console import err
from serving.cli.options import read_settings
from serving.core.types import ModelId
from serving.settings import ModelSettings
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
