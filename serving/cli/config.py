"""`galerne config`: look at settings without starting anything."""

from __future__ import annotations

from typing import Annotated

import typer
import yaml

from serving.cli.console import print_json
from serving.cli.options import ConfigOption, PresetOption, SetOption, read_settings
from serving.settings.platform import Settings

app = typer.Typer(help="Show and describe settings.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of YAML.")]


@app.command()
def show(
    preset: PresetOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Print the effective settings, defaults included.

    Sources, later wins: preset, config file, environment (`GALERNE__GATEWAY__REPLICAS=2`), `--set`.
    The output is itself a valid config file.

    **Examples**

    `galerne config show`

    `galerne config show --preset gpu --set models.mistral-7b.replicas=2`

    `galerne config show --config galerne.yaml --json | jq .models`
    """
    settings = read_settings(preset, config=config, overrides=overrides)
    tree = settings.model_dump(mode="json")
    if json:
        print_json(tree)
    else:
        print(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), end="")


@app.command()
def schema() -> None:
    """Print the JSON schema of a config file, with the meaning and unit of every setting.

    **Examples**

    `galerne config schema > galerne.schema.json`

    `galerne config schema | jq '."$defs".EngineSettings.properties'`
    """
    print_json(Settings.model_json_schema())
