"""Ray Serve takes what placement asks of it, and has room for it."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from serving.adapters.state_paths import StatePaths
from serving.planner.placement import plan_placement, to_deployment_options
from serving.settings.engine import EngineSettings, ResourceSettings
from serving.settings.platform import Settings


@pytest.mark.parametrize(
    ("engine", "resources"),
    [
        (EngineSettings(), ResourceSettings(device="cpu", num_cpus=0)),
        (EngineSettings(), ResourceSettings(num_cpus=0)),
        (EngineSettings(tensor_parallel_size=2), ResourceSettings(accelerator_type="H100")),
        (EngineSettings(tensor_parallel_size=2, pipeline_parallel_size=2), ResourceSettings()),
    ],
)
def test_ray_serve_accepts_the_options(engine: EngineSettings, resources: ResourceSettings) -> None:
    with warnings.catch_warnings():
        # Ray 2.60 declares its settings in a way pydantic 2.14 deprecates; seen on first import.
        warnings.simplefilter("ignore")
        from ray import serve

        options = to_deployment_options(plan_placement(engine, resources=resources))
        deployment = serve.deployment(type("Engine", (), {})).options(**options)
    assert deployment.ray_actor_options is not None
    for name, value in options["ray_actor_options"].items():
        assert deployment.ray_actor_options[name] == value


@pytest.mark.parametrize(("max_per_node", "surge"), [(None, 100), (1, 0)])
def test_gateways_with_no_room_beside_them_are_not_replaced_side_by_side(
    tmp_path: Path, max_per_node: int | None, surge: int
) -> None:
    """The new ones would wait for ever for the old ones' places."""
    with warnings.catch_warnings():
        # Ray 2.60 declares its settings in a way pydantic 2.14 deprecates; seen on first import.
        warnings.simplefilter("ignore")
        from serving.app import build_gateways

        settings = Settings.model_validate(
            {"gateway": {"max_per_node": max_per_node}, "models": {"sim": {"simulator": {}}}}
        )
        paths = StatePaths.of(tmp_path, tmp_path)
        application = build_gateways(settings, paths, created=0)
    # Ray has no public way from an application back to the deployment it is made of.
    deployment = application._bound_deployment
    assert deployment._replica_config.max_replicas_per_node == max_per_node
    assert deployment._deployment_config.max_surge_percent == surge
