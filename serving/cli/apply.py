"""`galerne apply`: change a running platform."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.adapters import control_client
from serving.adapters.settings_loader import load_settings, override_settings
from serving.adapters.state_paths import StatePaths
from serving.cli.console import err, progress
from serving.cli.options import ConfigOption, PresetOption, SetOption
from serving.cli.platform import check_extra_options, check_weights
from serving.errors import ConfigError
from serving.settings.platform import Settings

_POLL_S = 0.5


def apply(
    preset: PresetOption = None, config: ConfigOption = None, overrides: SetOption = None
) -> None:
    """Give the running platform new settings and wait until they are in force.

    With `--set` alone, everything else stays as it is. Replicas that need no new process keep
    theirs; the others are replaced one after the other: the new one is up before the old one gets
    no more requests, and the old one finishes its streams, up to the model's `drain_timeout_s`.
    Gives up when nothing has moved for `cluster.ready_timeout_s`; the old replicas then serve on.
    """
    paths = StatePaths.from_environment()
    settings = _wanted(paths, preset, config, overrides or ())
    check_weights(settings, paths)
    check_extra_options(settings)
    control_client.ask(paths, "/settings", settings.model_dump(mode="json"))
    with progress("rolling out") as tell:
        steps = _steps(lambda: control_client.ask(paths, "/rollout"))
        remark = wait_until_in_force(steps, tell, patience_s=settings.cluster.ready_timeout_s)
    err.print(f"[green]in force[/green]{remark}")


def _steps(ask: Callable[[], dict[str, Any]]) -> Iterator[tuple[float, dict[str, Any]]]:
    """How the roll-out stands, again and again, and when that was asked, in seconds."""
    while True:
        yield time.monotonic(), ask()
        time.sleep(_POLL_S)


def wait_until_in_force(
    steps: Iterable[tuple[float, Mapping[str, Any]]],
    tell: Callable[[str], None],
    *,
    patience_s: float,
) -> str:
    """What is left to say when the roll-out is done.

    Args:
        steps: how it stands, and at what time.
        tell: is given each message.
        patience_s: how long it may stand still.

    Raises:
        ConfigError: the new replicas fail, or take too long to come up.
    """
    step, began_at = "", 0.0
    for now, rollout in steps:
        if rollout["done"]:
            return str(rollout["remark"])
        if rollout["failure"]:
            raise _failed(f"the new settings do not come up: {rollout['failure']}")
        if rollout["message"] != step:
            step, began_at = rollout["message"], now
        elif now - began_at > patience_s:
            raise _failed(f"{step}, and no further within {patience_s:.0f} s")
        tell(step)
    raise AssertionError("a roll-out is asked for until it ends")


def _failed(message: str) -> ConfigError:
    return ConfigError(
        message,
        code="rollout_failed",
        hint="the old replicas go on serving; apply the old settings to end this",
    )


def _wanted(
    paths: StatePaths, preset: str | None, config: Path | None, overrides: Sequence[str]
) -> Settings:
    if preset is None and config is None:
        running = control_client.ask(paths, "/settings")
        return override_settings(running, overrides)
    return load_settings(preset=preset, config=config, environ=os.environ, overrides=overrides)
