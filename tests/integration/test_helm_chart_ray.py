"""Ray Serve takes what the chart declares, and Ray's autoscaler finds room for it in the pools."""

from __future__ import annotations

import pytest
import yaml
from helm_chart import Object, all_values, ray_service
from ray.serve.schema import ServeDeploySchema

from serving.planner.placement import plan_placement
from serving.settings.platform import Settings

EVERYTHING = all_values()


def node_types(name: str) -> dict[str, Object]:
    """What Ray's autoscaler believes it may start, by worker group.

    It reads `rayStartParams` of the RayCluster, where a wrong quotation mark goes unnoticed until
    nothing scales. No public module tells.
    """
    from ray.autoscaler._private.kuberay.autoscaling_config import (
        _derive_autoscaling_config_from_ray_cr as derive,
    )

    cluster = ray_service(EVERYTHING[name])["rayClusterConfig"]
    config = derive({"metadata": {"name": "g-abcde", "namespace": "n"}, "spec": cluster})
    types: dict[str, Object] = config["available_node_types"]
    return types


def declared(name: str) -> ServeDeploySchema:
    config = yaml.safe_load(ray_service(EVERYTHING[name])["serveConfigV2"])
    return ServeDeploySchema.model_validate(config)


@pytest.mark.parametrize("name", EVERYTHING)
def test_serve_takes_the_declaration(name: str) -> None:
    applications = {each.name: each for each in declared(name).applications}
    gateways = applications.pop("galerne")
    assert gateways.route_prefix == "/"
    assert all(each.route_prefix is None for each in applications.values())
    assert all(len(each.deployments) == 1 for each in applications.values())


@pytest.mark.parametrize("name", EVERYTHING)
def test_each_replica_fits_a_node_of_its_pool(name: str) -> None:
    types = node_types(name)
    (gateways, *models) = (each.args["settings"] for each in declared(name).applications)
    assert types[gateways["gateway"]["pool"]]["max_workers"] >= 1
    for model in Settings.model_validate({**gateways}).models.values():
        assert model.resources.pool is not None
        offered = types[model.resources.pool]["resources"]
        assert offered[f"pool:{model.resources.pool}"] == 1
        for bundle in plan_placement(model.engine, resources=model.resources).bundles:
            asked = {k: v for k, v in bundle.items() if not k.startswith("accelerator_type:")}
            assert {k: v for k, v in asked.items() if offered.get(k, 0) < v} == {}
    assert len(models) == len(gateways["models"])


@pytest.mark.parametrize("name", EVERYTHING)
def test_nothing_runs_on_the_head(name: str) -> None:
    head = node_types(name)["headgroup"]["resources"]
    assert head["CPU"] == 0
    assert not [resource for resource in head if resource.startswith(("pool:", "GPU"))]


def test_a_pool_has_its_own_patience() -> None:
    assert node_types("multi-model-ha")["l40s"]["idle_timeout_s"] == 600
