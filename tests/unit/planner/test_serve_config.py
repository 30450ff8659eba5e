"""What goes into `args`, whose change replaces replicas, and what does not."""

from __future__ import annotations

from typing import Any

import pytest
from ray.serve._private.deploy_utils import get_app_code_version
from ray.serve.schema import ServeDeploySchema

from serving.declared import GatewayArgs, ModelArgs
from serving.planner.serve_config import APP_NAME, serve_config
from serving.settings.platform import Settings

FILE = "/etc/galerne/settings.json"


def document(**models: Any) -> dict[str, Any]:
    return {"models": {"a": {"simulator": {}, **models}, "b": {"simulator": {}}}}


def versions(settings: dict[str, Any]) -> dict[str, str]:
    """The version that Serve gives all deployments of each application."""
    Settings.model_validate(settings)
    config = ServeDeploySchema.model_validate(serve_config(settings, settings_file=FILE))
    return {app.name: get_app_code_version(app) for app in config.applications}


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Applications whose replicas a change of settings replaces."""
    old, new = versions(before), versions(after)
    assert old.keys() == new.keys()
    return {name for name in old if old[name] != new[name]}


SCALED = {"scaling": {"min_replicas": 1, "max_replicas": 4}}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"replicas": 3}),
        (SCALED, {"scaling": {"min_replicas": 2, "max_replicas": 8, "spares": 1, "idle_s": 5}}),
        (SCALED, {**SCALED, "replicas": 2}),
    ],
)
def test_numbers_of_replicas_replace_nothing(before: Any, after: Any) -> None:
    assert changed(document(**before), document(**after)) == set()


@pytest.mark.parametrize(
    ("change", "replaced"),
    [
        ({"engine": {"max_num_seqs": 7}}, {"engine:a", APP_NAME}),
        ({"routing": {"policy": "round_robin"}}, {APP_NAME}),
        ({"slo": {"ttft_s": 9}}, {APP_NAME}),
    ],
)
def test_a_change_replaces_whom_it_concerns(change: Any, replaced: set[str]) -> None:
    """A model's neighbour never; gateways when they must know."""
    assert changed(document(), document(**change)) == replaced


def test_a_sleeping_model_concerns_gateways_which_wait_for_it() -> None:
    asleep = {"scaling": {"min_replicas": 0, "max_replicas": 4}}
    assert changed(document(**SCALED), document(**asleep)) == {APP_NAME}


def test_a_gateway_more_replaces_nothing() -> None:
    more = document() | {"gateway": {"replicas": 3}, "autoscaler": {"gpu_budget": 8}}
    assert changed(document(), more) == set()
    (gateways, *_) = serve_config(more, settings_file=FILE)["applications"]
    assert gateways["deployments"] == [{"name": "gateway", "num_replicas": 3}]


def test_the_builders_accept_their_arguments() -> None:
    """Only what is set travels; all else is the release's default."""
    config = serve_config(document(**SCALED), settings_file=FILE)
    gateways, a, b = config["applications"]
    GatewayArgs.model_validate(gateways["args"])
    assert ModelArgs.model_validate(a["args"]).name == "a"
    assert b["args"] == {"name": "b", "settings": {"simulator": {}}}
    assert a["route_prefix"] is None
    (engine,) = a["deployments"]
    assert engine["autoscaling_config"]["policy"]["policy_kwargs"] == {
        "model": "a",
        "settings_file": FILE,
    }
