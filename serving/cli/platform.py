"""`galerne up`."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.markup import escape

from serving.adapters.demo_model import prepare_demo
from serving.adapters.descriptors import descriptor_limit, num_requests
from serving.adapters.key_store import KeyFile
from serving.adapters.run_record import RunRecord
from serving.adapters.secrets_file import make_private_folder
from serving.adapters.state_paths import StatePaths
from serving.adapters.weights import check_adapters, resolve_weights
from serving.cli.console import err, out, progress, read_steps, say
from serving.cli.options import ConfigOption, PresetOption, SetOption, read_settings
from serving.cli.planned import planned
from serving.engine.option_check import check_options
from serving.errors import ConfigError
from serving.settings.gateway import GatewaySettings
from serving.settings.platform import Settings
from serving.settings.weights import DEMO_SOURCE
from serving.supervisor import Ready, Supervisor, endpoint_url

FIRST_KEY_NAME = "first-key"

_POLL_S = 0.2


def up(  # noqa: PLR0913 (one parameter per command-line option)
    preset: PresetOption = None,
    config: ConfigOption = None,
    port: Annotated[
        int | None, typer.Option(help="Port of the endpoint; same as --set endpoint.port=N.")
    ] = None,
    replicas: Annotated[int | None, typer.Option(help="Engine replicas of every model.")] = None,
    overrides: SetOption = None,
    detach: Annotated[
        bool,
        typer.Option("--detach", "-d", help="Return once it is ready; `galerne down` stops it."),
    ] = False,
    background: Annotated[bool, typer.Option("--background", hidden=True)] = False,
) -> None:
    """Start the platform on this machine and serve until Ctrl-C."""
    words = list(overrides or ())
    if port is not None:
        words.append(f"endpoint.port={port}")
    if replicas is not None:
        models = read_settings(preset, config=config, overrides=words).models
        words += [f"models.{model_id}.replicas={replicas}" for model_id in models]
    settings = read_settings(preset, config=config, overrides=words)
    paths = StatePaths.from_environment()
    supervisor = Supervisor(settings, paths)
    supervisor.check(say)
    check_weights(settings, paths)
    if not background:  # its starter has
        check_extra_options(settings)
    if remark := descriptor_remark(settings.gateway, descriptor_limit()):
        err.print(remark)
    ready = Ready(endpoint_url(settings), tuple(settings.models))
    remarks = tuple(planned(settings, paths))
    if detach:
        _start_detached(paths, sys.argv[1:])
        _print_ready(ready, paths, remarks)
        return
    # A background run writes to a log file, which must never hold a key: its starter prints.
    announce = _nothing if background else partial(_print_ready, ready, paths, remarks)
    asyncio.run(_run(supervisor, announce))


def descriptor_remark(gateway: GatewaySettings, limit: int) -> str | None:
    r"""What to say if a gateway cannot hold as many requests as it is set to.

    >>> few = GatewaySettings(max_concurrent_requests=384, max_queued_requests=99)
    >>> descriptor_remark(few, 1024)
    >>> print(descriptor_remark(GatewaySettings(), 1024))
    a process may open 1024 files here, enough for about 384 of the 6144 requests of \
gateway.max_concurrent_requests; raise the hard limit (ulimit -Hn)
    """
    enough = num_requests(limit)
    if enough >= gateway.max_concurrent_requests:
        return None
    return (
        f"a process may open {limit} files here, enough for about {enough} of the "
        f"{gateway.max_concurrent_requests} requests of gateway.max_concurrent_requests; "
        "raise the hard limit (ulimit -Hn)"
    )


def check_weights(settings: Settings, paths: StatePaths) -> None:
    """Build the demo model if it is used and missing; refuse local folders that are not models or
    adapters.

    What must be downloaded is left to the replicas, which may run on other machines.
    """
    for model in settings.models.values():
        check_adapters(model.adapters)
        if model.weights is None:
            continue
        if model.weights.source == DEMO_SOURCE:
            with progress("preparing the demo model") as tell:
                prepare_demo(paths, lambda step, _done, _total: tell(step))
        elif model.weights.is_local:
            resolve_weights(model.weights, paths)


def check_extra_options(settings: Settings) -> None:
    """Ask vLLM about options that Galerne does not know, where vLLM runs on this machine.

    Raises:
        ConfigError: it refuses one.
    """
    models = {
        model_id: model
        for model_id, model in settings.models.items()
        if model.engine.extra_args and model.simulator is None
    }
    if models and settings.cluster.address is None:
        with progress("checking the engine options"):
            check_options(models)


async def _run(supervisor: Supervisor, announce: Callable[[], None]) -> None:
    stopped = asyncio.create_task(supervisor.stop_requested.wait())
    try:
        with progress("starting") as tell:
            start = asyncio.create_task(supervisor.start(tell))
            await asyncio.wait({start, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not start.done():
                start.cancel()
                return
            start.result()
        announce()
        await stopped
        with progress("stopping") as tell:
            await supervisor.drain(tell)
    finally:
        await supervisor.stop()


def _start_detached(paths: StatePaths, arguments: Sequence[str]) -> None:
    """Run the same command in a session of its own and return when it is ready.

    Raises:
        ConfigError: it ended before it was ready, without a word.
        typer.Exit: it ended with an error, which has been printed.
    """
    make_private_folder(paths.log_dir)
    log_path = paths.log_dir / "up.log"
    words = [word for word in arguments if word not in ("--detach", "-d")] + ["--background"]
    with log_path.open("w") as log:
        child = subprocess.Popen(  # noqa: S603 (our own command with its own arguments)
            [sys.executable, "-m", "serving", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with progress("starting") as tell:
        while child.poll() is None and not ((run := RunRecord.read(paths)) and run.ready):
            step, _ = read_steps(log_path.read_text())
            tell(step or "starting")
            time.sleep(_POLL_S)
    if child.returncode is not None:
        report_end(child.returncode, log_path)


def report_end(returncode: int, log_path: Path) -> NoReturn:
    """Pass on what a background run has said at its end.

    Raises:
        ConfigError: it has said nothing.
    """
    _, said = read_steps(log_path.read_text())
    if not said:
        raise ConfigError(
            f"the platform ended before it was ready (exit status {returncode})",
            code="start_failed",
            hint=f"see {log_path}",
        )
    err.print(escape(said), soft_wrap=True)
    raise typer.Exit(max(returncode, 1))


def _nothing() -> None:
    """Announce nothing."""


def _first_key(paths: StatePaths) -> str | None:
    """A new API key if there has never been one."""
    keys = KeyFile(paths.key_file)
    if keys.list():
        return None
    key, _ = keys.create(FIRST_KEY_NAME)
    return key


def _print_ready(ready: Ready, paths: StatePaths, remarks: Sequence[str]) -> None:
    key = _first_key(paths)
    shown = key or "$GALERNE_API_KEY"
    lines = [
        f"  endpoint  {ready.endpoint}/v1",
        f"  models    {', '.join(ready.models)}",
        f"  API key   {key}" if key else
        "  API key   made on the first start; another: galerne keys create --name NAME",
        f"  logs      {paths.log_dir}",
        *(f"  planned   {line}" for line in remarks),
        "",
        "  try it:",
        f"  curl {ready.endpoint}/v1/chat/completions \\",
        f'    -H "Authorization: Bearer {shown}" \\',
        "    -H 'Content-Type: application/json' \\",
        f"    -d '{json.dumps(_example(ready.models[0]))}'",
    ]  # fmt: skip
    out.print("[green]Galerne is ready[/green]")
    out.print(escape("\n".join(lines)), soft_wrap=True)


def _example(model: str) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
    }
