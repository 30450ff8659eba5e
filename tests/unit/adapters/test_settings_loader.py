"""Order of the sources, spelling of paths, and the errors people will meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from serving.adapters.settings_loader import load_settings
from serving.adapters.settings_sources import available_presets
from serving.errors import ConfigError
from serving.settings.platform import Settings

MODEL = "mistral-7b-v0.3"
CONFIG = f"""
models:
  {MODEL}:
    weights: {{source: demo}}
    replicas: 3
    engine:
      extra_args: {{middleware: [a, b]}}
"""


def load(
    *overrides: str,
    preset: str | None = None,
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    return load_settings(
        preset=preset, config=config, environ=environ or {}, overrides=list(overrides)
    )


def refuse(
    *overrides: str,
    preset: str | None = "cpu",
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(*overrides, preset=preset, config=config, environ=environ)
    assert "\n" not in caught.value.message
    return caught.value


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "galerne.yaml"
    path.write_text(CONFIG)
    return path


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "written.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("preset", available_presets())
def test_every_preset_is_valid(preset: str) -> None:
    assert load(preset=preset).models


def test_later_sources_win(tmp_path: Path) -> None:
    file = written(tmp_path, "gateway: {replicas: 2, key_refresh_s: 2}")
    environ = {"GALERNE__GATEWAY__REPLICAS": "3"}
    assert load(preset="cpu").gateway.replicas == 1
    assert load(preset="cpu", config=file).gateway.replicas == 2
    assert load(preset="cpu", config=file, environ=environ).gateway.replicas == 3
    settings = load("gateway.replicas=4", preset="cpu", config=file, environ=environ)
    assert (settings.gateway.replicas, settings.gateway.key_refresh_s) == (4, 2)


def test_the_last_override_wins() -> None:
    assert load("gateway.replicas=2", "gateway.replicas=5", preset="cpu").gateway.replicas == 5


def test_a_config_file_alone_is_enough(config: Path) -> None:
    assert list(load(config=config).models) == [MODEL]


def test_a_config_builds_on_a_preset_it_names(tmp_path: Path) -> None:
    file = written(tmp_path, "preset: cpu\nmodels: {demo: {replicas: 2}}")
    model = load(config=file).models["demo"]
    assert (model.replicas, model.engine.max_model_len) == (2, 4096)


def test_the_preset_argument_beats_the_files(tmp_path: Path) -> None:
    assert "mistral-7b" in load(preset="gpu", config=written(tmp_path, "preset: cpu")).models


def test_an_empty_config_changes_nothing(tmp_path: Path) -> None:
    assert load(preset="cpu", config=written(tmp_path, "# nothing\n")) == load(preset="cpu")


@pytest.mark.parametrize(
    ("override", "expected"),
    [("replicas=7", 7), ("replicas=0x10", 16), ("replicas= 8", 8)],
)
def test_paths_pass_through_model_ids_with_dots(config: Path, override: str, expected: int) -> None:
    assert load(f"models.{MODEL}.{override}", config=config).models[MODEL].replicas == expected


def test_the_longest_existing_key_is_meant() -> None:
    longer = f"{MODEL}.replicas"
    one = "{weights: {source: demo}}"
    settings = load(f"models={{{MODEL}: {one}, {longer}: {one}}}", f"models.{longer}.replicas=9")
    assert settings.models[longer].replicas == 9
    assert settings.models[MODEL].replicas == 1


def test_values_are_yaml(config: Path) -> None:
    settings = load(
        f"models.{MODEL}.engine.extra_args={{seed: 1, flags: [x, y], text: 'a=b'}}",
        "cluster.address=",
        config=config,
    )
    extra = settings.models[MODEL].engine.extra_args
    assert extra == {"seed": 1, "flags": ["x", "y"], "text": "a=b"}
    assert settings.cluster.address is None


def test_list_items_are_reached_by_index(config: Path) -> None:
    settings = load(f"models.{MODEL}.engine.extra_args.middleware.1=z", config=config)
    assert settings.models[MODEL].engine.extra_args["middleware"] == ["a", "z"]


def test_sections_on_the_way_are_made(config: Path) -> None:
    settings = load(
        "models.new.weights.source=demo", "gateway.limits.max_json_depth=9", config=config
    )
    assert set(settings.models) == {MODEL, "new"}
    assert settings.gateway.limits.max_json_depth == 9


def test_what_yaml_aliases_share_does_not_change_together(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "models:\n  a: &a {weights: {source: demo}, replicas: 2}\n  b: *a\n  c: {<<: *a}\n",
    )
    settings = load("models.b.replicas=5", config=file)
    assert [m.replicas for m in settings.models.values()] == [2, 5, 2]


@pytest.mark.parametrize(
    "name",
    [
        f"GALERNE__MODELS__{MODEL.upper()}__REPLICAS",
        f"galerne__models__{MODEL}__replicas",
        f"Galerne__Models__{MODEL}__Replicas",
    ],
)
def test_environment_ignores_case(config: Path, name: str) -> None:
    assert load(config=config, environ={name: "6"}).models[MODEL].replicas == 6


def test_environment_keeps_the_case_of_existing_keys(tmp_path: Path) -> None:
    file = written(tmp_path, "models: {Big__One: {weights: {source: demo}}}")
    settings = load(config=file, environ={"GALERNE__MODELS__BIG__ONE__REPLICAS": "2"})
    assert settings.models["Big__One"].replicas == 2


def test_single_underscore_variables_are_not_settings() -> None:
    environ = {"GALERNE_STATE_DIR": "/x", "GALERNE": "y", "GALERNE_HEADER_TIMEOUT_S": "1"}
    assert load(preset="cpu", environ=environ) == load(preset="cpu")


@pytest.mark.parametrize(
    ("override", "param", "named"),
    [
        ("gateway.replicas=0", "gateway.replicas", "0"),
        ("gateway.replicas=many", "gateway.replicas", "'many'"),
        ("models.demo.engine.dtype=int4", "models.demo.engine.dtype", "'bfloat16'"),
        ("gateway=3", "gateway", "3"),
        ("models.demo.weights.source=x", "models.demo.weights", "'x'"),
        ("models.demo.engine.extra_args.x={a: 1}", "models.demo.engine.extra_args.x", "string"),
        ("models.demo.engine.extra_args.x=[1]", "models.demo.engine.extra_args.x", "[1]"),
        ("models.demo.adapters.demo=/x", "models.demo.adapters.demo", "'demo'"),
        ("models.a b.weights.source=demo", "models.a b", "'a b'"),
        ("models.new.replicas=1", "models.new", "weights is missing"),
        ("models={}", "models", "{}"),
        ("gateway.replicas.x=1", "gateway.replicas", "{'x': 1}"),
        ("gateway.replicas={", "gateway.replicas", "'{'"),
        ("gateway.replicas={a: 1, a: 2}", "gateway.replicas", "a: 2"),
        ("endpoint.port", "endpoint.port", "PATH=VALUE"),
        ("gateway.=1", "gateway.", "'gateway.'"),
        ("=1", None, "''"),
    ],
)
def test_wrong_values_are_named_with_their_path(
    override: str, param: str | None, named: str
) -> None:
    error = refuse(override)
    assert error.code == "setting_invalid"
    assert error.param == param
    assert named in error.message


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (f"models.{MODEL}.replicas.x=1", "plain value 3"),
        (f"models.{MODEL}.engine.extra_args.middleware.2=z", "the list has 2"),
        (f"models.{MODEL}.engine.extra_args.middleware.-1=z", "'-1'"),
    ],
)
def test_paths_that_lead_nowhere(config: Path, override: str, problem: str) -> None:
    error = refuse(override, preset=None, config=config)
    assert error.code == "setting_invalid"
    assert error.param == override.partition("=")[0]
    assert problem in error.message


@pytest.mark.parametrize(
    ("override", "param", "meant"),
    [
        ("gatway.replicas=2", "gatway", "gateway"),
        ("gateway.replica=2", "gateway.replica", "gateway.replicas"),
        ("models.demo.engine.max_len=9", "models.demo.engine.max_len", "max_model_len"),
        ("gateway.limits.zzz=1", "gateway.limits.zzz", "max_body_bytes"),
    ],
)
def test_unknown_names_get_the_closest_known_one(override: str, param: str, meant: str) -> None:
    error = refuse(override)
    assert (error.code, error.param) == ("setting_unknown", param)
    assert param in error.message
    assert meant in error.hint


def test_a_price_of_no_known_gpu_is_refused() -> None:
    error = refuse("planner.gpu_prices.h100=2")
    assert (error.code, error.param) == ("gpu_unknown", "planner.gpu_prices.h100")
    assert "H100-80G" in error.hint


def test_a_model_named_like_a_section_does_not_mislead_the_hint() -> None:
    error = refuse("models.weights.weights.source=demo", "models.weights.replica=2")
    assert error.hint == "did you mean models.weights.replicas?"


def test_several_mistakes_are_all_named() -> None:
    error = refuse("endpoint.port=0", "gateway.replicas=0", "clutser.address=x")
    assert error.param == "endpoint.port"
    for path in ("endpoint.port", "gateway.replicas", "clutser"):
        assert path in error.message
    assert "cluster" in error.hint


def test_environment_mistakes_are_named_as_settings() -> None:
    error = refuse(environ={"GALERNE__GATEWAY__REPLICAS": "0"})
    assert error.param == "gateway.replicas"


def test_long_values_are_cut() -> None:
    assert len(refuse(f"gateway.replicas={'x' * 500}").message) < 200


def test_no_source_at_all_says_what_to_name() -> None:
    error = refuse(preset=None)
    assert error.param == "models"
    assert "cpu" in error.hint


def test_unknown_preset_in_a_file(tmp_path: Path) -> None:
    file = written(tmp_path, "preset: [cpu]")
    assert refuse(preset=None, config=file).code == "preset_unknown"


def test_inputs_are_left_alone(config: Path) -> None:
    environ = {"GALERNE__GATEWAY__REPLICAS": "2"}
    overrides: Sequence[str] = ("gateway.replicas=3",)
    load(*overrides, config=config, environ=environ)
    assert config.read_text() == CONFIG
    assert environ == {"GALERNE__GATEWAY__REPLICAS": "2"}


def test_unknown_names_below_a_section_that_may_be_absent() -> None:
    error = refuse("models.sim.simulator.timing.step=1", preset="sim")
    assert error.param == "models.sim.simulator.timing.step"
    assert "step_s" in error.hint
