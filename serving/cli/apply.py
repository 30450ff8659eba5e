"""`galerne apply`: change a running platform."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from serving.adapters import control_client
from serving.adapters.settings_files import load_settings, override_settings
from serving.adapters.state_paths import StatePaths
from serving.cli.console import err, progress
from serving.cli.options import ConfigOption, PresetOption, SetOption
from serving.cli.platform import check_weights
from serving.errors import ConfigError
from serving.settings import Settings

_POLL_S = 0.5


def apply(
    preset: PresetOption = None, config: ConfigOption = None, overrides: SetOption = None
) -> None:
    """Give the running platform new settings and wait until they are in force.

    With `--set` alone, everything else stays as it is. Replicas that need no new process keep
    theirs; the others are replaced one after the other: the new one is up before the old one gets
    no more requests, and the old one finishes its streams, up to the model's `drain_timeout_s`.
    """
    paths = StatePaths.from_environment()
    settings = _wanted(paths, preset, config, overrides or ())
    check_weights(settings, paths)
    control_client.ask(paths, "/settings", settings.model_dump(mode="json"))
    with progress("rolling out") as tell:
        while not (rollout := control_client.ask(paths, "/rollout"))["done"]:
            if rollout["failure"]:
                raise ConfigError(
                    f"the new settings do not come up: {rollout['failure']}",
                    code="rollout_failed",
                    hint="the old replicas go on serving; apply the old settings to end this",
                )
            tell(rollout["message"])
            time.sleep(_POLL_S)
    err.print(f"[green]in force[/green]{rollout['remark']}")


def _wanted(
    paths: StatePaths, preset: str | None, config: Path | None, overrides: Sequence[str]
) -> Settings:
    if preset is None and config is None:
        running = control_client.ask(paths, "/settings")
        return override_settings(running, overrides)
    return load_settings(preset=preset, config=config, environ=os.environ, overrides=overrides)
