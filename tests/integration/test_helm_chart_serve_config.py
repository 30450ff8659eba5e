"""`serveConfigV2`: what restarts replicas is in `args`, how many there are is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_chart import (
    CHART,
    CI_FILES,
    PRESETS,
    Object,
    Values,
    all_values,
    by_kind,
    load_yaml,
    preset_values,
    ray_service,
    render,
)

from serving.planner.serve_config import serve_config as planned
from serving.settings.platform import Settings

POLICY = "serving.serve_scaling:ModelScaling"
MODEL = {"simulator": {}, "resources": {"device": "cpu", "num_cpus": 0, "pool": "cpu"}}
SCALING = {"min_replicas": 0, "max_replicas": 4, "spares": 1, "wake_wait_s": 20}


def serve_config(values: Values) -> Object:
    return yaml.safe_load(ray_service(values)["serveConfigV2"])  # type: ignore[no-any-return]


def applications(settings: Object) -> dict[str, Object]:
    config = serve_config({"settings": settings})
    return {each["name"]: each for each in config["applications"]}


def settings_of(models: Object, **gateway: Any) -> Object:
    return {"gateway": {"pool": "cpu", **gateway}, "models": models}


@pytest.mark.parametrize("name", sorted(all_values()))
def test_it_is_what_the_platform_makes_of_the_same_settings(name: str) -> None:
    """`galerne k8s` changes it without Helm."""
    values = all_values()[name]
    (settings,) = (
        json.loads(each["data"]["settings.json"])
        for each in by_kind(render(values), "ConfigMap")
        if "settings.json" in each["data"]
    )
    assert serve_config(values) == planned(settings, settings_file="/etc/galerne/settings.json")


def test_every_node_listens_for_requests() -> None:
    config = serve_config({})
    assert config["proxy_location"] == "EveryNode"
    assert config["http_options"] == {"host": "0.0.0.0", "port": 8000}


def test_one_application_for_gateways_and_one_per_model_in_the_order_of_names() -> None:
    names = list(applications(settings_of({"b": MODEL, "a/1": MODEL, "c": MODEL})))
    assert names == ["galerne", "engine:a/1", "engine:b", "engine:c"]


def test_a_model_is_built_from_what_its_engines_need() -> None:
    model = {**MODEL, "replicas": 3, "routing": {"warm_up_s": 1}, "slo": {"ttft_s": 1}}
    application = applications(settings_of({"m": model}))["engine:m"]
    assert application == {
        "name": "engine:m",
        "route_prefix": None,
        "import_path": "serving.declared:model",
        "args": {"name": "m", "settings": MODEL},
        "deployments": [{"name": "engine:m", "num_replicas": 3}],
    }


def test_gateways_are_built_from_everything_but_numbers() -> None:
    model = {**MODEL, "replicas": 3, "routing": {"warm_up_s": 1}, "slo": {"ttft_s": 1}}
    settings = settings_of({"m": model}, replicas=2)
    settings |= {"autoscaler": {"gpu_budget": None}, "tenancy": {"classes": {"gold": ["a"]}}}
    application = applications(settings)["galerne"]
    assert application == {
        "name": "galerne",
        "route_prefix": "/",
        "import_path": "serving.declared:gateways",
        "args": {
            "settings": {
                "gateway": {"pool": "cpu"},
                "tenancy": {"classes": {"gold": ["a"]}},
                "models": {"m": {**MODEL, "routing": {"warm_up_s": 1}, "slo": {"ttft_s": 1}}},
            }
        },
        "deployments": [{"name": "gateway", "num_replicas": 2}],
    }


def test_a_scaled_model_is_given_bounds_and_the_policy() -> None:
    found = applications(settings_of({"m": {**MODEL, "scaling": SCALING}}))
    (deployment,) = found["engine:m"]["deployments"]
    assert deployment == {
        "name": "engine:m",
        "autoscaling_config": {
            "min_replicas": 0,
            "max_replicas": 4,
            "upscale_delay_s": 0,
            "downscale_delay_s": 0,
            "downscale_to_zero_delay_s": 0,
            "policy": {
                "policy_function": POLICY,
                "policy_kwargs": {"model": "m", "settings_file": "/etc/galerne/settings.json"},
            },
        },
    }


@pytest.mark.parametrize(("least", "told"), [(None, 1), (0, 0), (1, 1), (3, 1)])
def test_of_scaling_gateways_know_whether_a_model_may_have_no_replica(
    least: int | None, told: int
) -> None:
    capacity = {"prompt_token_s": 0.00006, "output_token_s": 0.0007}
    scaling = {**SCALING, "min_replicas": least, "capacity": capacity}
    if least is None:
        del scaling["min_replicas"]
    found = applications(settings_of({"m": {**MODEL, "scaling": scaling}}))
    assert found["galerne"]["args"]["settings"]["models"]["m"]["scaling"] == {
        "min_replicas": told,
        "max_replicas": 1,
        "wake_wait_s": 20,
        "capacity": capacity,
    }


@pytest.mark.parametrize("change", [{"replicas": 5}, {"scaling": {**SCALING, "spares": 2}}])
def test_other_numbers_restart_nothing(change: Object) -> None:
    before = applications(settings_of({"m": {**MODEL, "scaling": SCALING}}))
    after = applications(settings_of({"m": {**MODEL, "scaling": SCALING, **change}}))
    assert [each["args"] for each in before.values()] == [each["args"] for each in after.values()]


def test_a_null_is_the_same_as_nothing() -> None:
    nulls = {"scaling": None, "weights": None, "engine": {"max_model_len": None}}
    (found,) = applications(settings_of({"m": {**MODEL, **nulls}}))["engine:m"]["deployments"]
    assert found == {"name": "engine:m", "num_replicas": 1}
    settings = mounted_settings({"settings": settings_of({"m": {**MODEL, **nulls}})})
    assert settings["models"]["m"] == {**MODEL, "engine": {}}


@pytest.mark.parametrize("name", all_values())
def test_the_platform_takes_what_it_is_given(name: str) -> None:
    values = all_values()[name]
    settings = mounted_settings(values)
    if values.get("settings"):
        assert settings == values["settings"]
    Settings.model_validate(settings)
    for application in serve_config(values)["applications"]:
        args = application["args"]
        if application["name"] == "galerne":
            Settings.model_validate(args["settings"])
        else:
            models = {args["name"]: args["settings"]}
            Settings.model_validate({"models": models})


@pytest.mark.parametrize(
    ("preset", "path"),
    [("sim", CHART / "files" / "trial-settings.yaml"), ("cpu", CI_FILES["laptop-cpu"])],
    ids=["trial", "laptop"],
)
def test_what_runs_first_is_a_preset(preset: str, path: Path) -> None:
    document = load_yaml(path)
    settings = preset_values(preset)["settings"]
    assert document.get("settings", document) == settings


@pytest.mark.parametrize("preset", PRESETS)
def test_numbers_keep_their_type(preset: str) -> None:
    """Helm reads every number as a float, and prints large ones in a way YAML takes for text."""
    values = all_values()[f"preset-{preset}"]
    large = {**values["settings"]["gateway"], "max_index_entries": 2_000_000_000}
    settings = {**values["settings"], "gateway": large}
    found = mounted_settings({**values, "settings": settings})
    assert found["gateway"]["max_index_entries"] == 2_000_000_000
    (gateways, *_) = serve_config({**values, "settings": settings})["applications"]
    number = gateways["args"]["settings"]["gateway"]["max_index_entries"]
    assert (number, type(number)) == (2_000_000_000, int)


def mounted_settings(values: Values) -> Object:
    """What the scaling policy reads in the pod."""
    (found,) = (
        each["data"]["settings.json"]
        for each in by_kind(render(values), "ConfigMap")
        if each["metadata"]["name"] == "g-settings"
    )
    return yaml.safe_load(found)  # type: ignore[no-any-return]
