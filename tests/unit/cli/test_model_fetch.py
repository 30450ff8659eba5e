"""Which weights `galerne model fetch` fetches, and how it says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from serving.adapters.settings_file import write_settings
from serving.cli.main import app
from serving.cli.model_fetch import weights_of
from serving.errors import ConfigError
from serving.settings.platform import Settings

POOLED = {"resources": {"pool": "h100"}}
SIMULATED: dict[str, Any] = {"simulator": {}}


def settings(folder: Path) -> Settings:
    weights = {"weights": {"source": str(folder)}}
    models = {
        "plain": weights,
        "pooled": weights | POOLED,
        "simulated": weights | SIMULATED | POOLED,
        "bare": SIMULATED,
    }
    return Settings.model_validate({"models": models})


@pytest.mark.parametrize(
    ("pool", "names"), [(None, ["plain", "pooled"]), ("h100", ["pooled"]), ("l4", [])]
)
def test_only_engines_of_the_pool_load_weights(pool: str | None, names: list[str]) -> None:
    assert list(weights_of(settings(Path("/models/x")), pool=pool)) == names


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["model", "fetch", *arguments])


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder that the state folder's settings name."""
    monkeypatch.setenv("GALERNE_STATE_DIR", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    write_settings(tmp_path / "settings.json", settings(tmp_path / "model"))
    return tmp_path / "model"


def test_the_settings_in_force_are_the_default(model: Path) -> None:
    result = run("--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "ready": True,
        "models": [
            {"model": name, "ready": True, "folder": str(model)} for name in ("plain", "pooled")
        ],
    }


def test_a_fault_is_told_and_keeps_no_pod_from_starting(model: Path) -> None:
    (model / "config.json").unlink()
    assert run().exit_code == 2
    result = run("--best-effort", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["ready"] is False
    assert "neither config.json nor params.json" in result.stderr


def test_nothing_to_do_is_no_failure(model: Path) -> None:
    result = run("--pool", "l4")
    assert result.exit_code == 0
    assert "nothing to fetch: no model in pool l4 loads weights" in result.stderr


def test_a_model_that_is_not_there_is_a_failure(model: Path) -> None:
    (model / "config.json").unlink()
    result = run()
    assert result.exit_code == 2
    assert result.stderr.count("error") == 1
    assert "(models.plain.weights.source)" in result.stderr


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, "config_unreadable"),
        ("models: {}", "config_unreadable"),
        ("[]", "config_unreadable"),
        ('{"models": {}}', "setting_invalid"),
        ('{"models": {"a": {"weights": {"source": "s3://b/p"}}}}', "setting_invalid"),
    ],
)
def test_settings_that_cannot_be_used_are_told(tmp_path: Path, text: str | None, code: str) -> None:
    path = tmp_path / "given.json"
    if text is not None:
        path.write_text(text)
    error = run("--settings", str(path)).exception
    assert isinstance(error, ConfigError)
    assert error.code == code
