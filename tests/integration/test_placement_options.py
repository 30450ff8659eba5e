"""Ray Serve takes what placement asks of it."""

from __future__ import annotations

import warnings

import pytest

from serving.planner.placement import plan_placement, to_deployment_options
from serving.settings import EngineSettings, ResourceSettings


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
