"""Options that several commands share, and the settings they lead to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from serving.adapters.settings_loader import load_settings
from serving.adapters.settings_sources import available_presets
from serving.settings.platform import Settings

DEFAULT_PRESET = "cpu"
"""What runs when neither a preset nor a config file is named: it needs no GPU and no download."""

PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        "-p",
        metavar="NAME",
        help=f"Bundled settings to start from: {', '.join(available_presets())}. "
        f"[default: {DEFAULT_PRESET}, unless --config is given]",
        show_default=False,
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="YAML file, merged over the preset.",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="PATH=VALUE",
        help="Override one setting; VALUE is YAML. Repeatable, wins over everything else.",
        show_default=False,
    ),
]


def read_settings(
    preset: str | None, *, config: Path | None, overrides: Sequence[str] | None
) -> Settings:
    """The settings these options and this process's environment lead to.

    Raises:
        ConfigError: see `load_settings`.
    """
    if preset is None and config is None:
        preset = DEFAULT_PRESET
    return load_settings(
        preset=preset, config=config, environ=os.environ, overrides=overrides or ()
    )
