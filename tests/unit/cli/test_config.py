"""`galerne config` as a person and as a pipe use it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from serving.cli.config import app
from serving.errors import ConfigError
from serving.settings.platform import Settings


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("GALERNE__"):
            monkeypatch.delenv(name)


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env=environ)


def shown(*arguments: str, **environ: str) -> Any:
    result = run("show", *arguments, **environ)
    assert result.exit_code == 0, result.output
    return yaml.safe_load(result.stdout)


def test_the_default_preset_is_cpu() -> None:
    assert shown()["models"]["demo"]["resources"]["device"] == "cpu"


def test_preset_environment_and_overrides_combine() -> None:
    tree = shown(
        "--preset", "gpu", "--set", "gateway.replicas=2", "-s", "models.mistral-7b.replicas=4",
        GALERNE__GATEWAY__REPLICAS="9", GALERNE__ENDPOINT__PORT="8123",
    )  # fmt: skip
    assert tree["gateway"]["replicas"] == 2
    assert tree["endpoint"]["port"] == 8123
    assert tree["models"]["mistral-7b"]["replicas"] == 4


def test_a_config_file_needs_no_preset(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("models: {mine: {weights: {source: demo}}}")
    assert list(shown("--config", str(file))["models"]) == ["mine"]


def test_the_output_is_a_config_file_for_the_same_settings(tmp_path: Path) -> None:
    first = run("show", "--preset", "gpu").stdout
    file = tmp_path / "c.yaml"
    file.write_text(first)
    assert run("show", "--config", str(file)).stdout == first


def test_json_is_the_same_tree() -> None:
    assert json.loads(run("show", "--json").stdout) == shown()


def test_schema_describes_settings() -> None:
    schema = json.loads(run("schema").stdout)
    assert schema == Settings.model_json_schema()
    replicas = schema["$defs"]["GatewaySettings"]["properties"]["replicas"]
    assert replicas["description"] == "Gateway processes behind HAProxy."


def test_errors_reach_the_entry_point_as_config_errors() -> None:
    result = run("show", "--preset", "nope")
    assert isinstance(result.exception, ConfigError)
    assert result.exception.code == "preset_unknown"


@pytest.mark.parametrize("command", ["show", "schema"])
def test_help_has_examples(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"galerne config {command}" in result.output
