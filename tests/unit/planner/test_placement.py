"""Placement holds for every combination of settings, not only for the examples."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import ConfigError
from serving.planner import placement as module
from serving.planner.placement import (
    Placement,
    plan_placement,
    tensor_group_spans_nodes,
)
from serving.settings.engine import EngineSettings, ResourceSettings

engines = st.builds(
    EngineSettings,
    tensor_parallel_size=st.integers(1, 16),
    pipeline_parallel_size=st.integers(1, 8),
)
gpu_resources = st.builds(
    ResourceSettings,
    device=st.just("gpu"),
    accelerator_type=st.sampled_from([None, "H100", "A10G"]),
    num_cpus=st.sampled_from([0.0, 0.5, 1.0, 8.0]),
)


def _gpus(placement: Placement) -> float:
    return sum(bundle.get("GPU", 0) for bundle in placement.bundles)


def test_doctests() -> None:
    assert doctest.testmod(module).failed == 0


@given(engines, gpu_resources)
def test_placements_on_gpus(engine: EngineSettings, resources: ResourceSettings) -> None:
    placement = plan_placement(engine, resources=resources)
    assert _gpus(placement) == engine.tensor_parallel_size * engine.pipeline_parallel_size
    assert (placement.strategy == "STRICT_PACK") == (engine.pipeline_parallel_size == 1)
    check_the_actor_fits_into_the_first_bundle(placement)
    check_each_bundle_carries_its_cpus_and_accelerator(placement, resources)
    check_the_executor_matches_the_bundles(placement)


def check_the_actor_fits_into_the_first_bundle(placement: Placement) -> None:
    for name, amount in placement.actor_resources.items():
        assert amount <= placement.bundles[0].get(name, 0)


def check_each_bundle_carries_its_cpus_and_accelerator(
    placement: Placement, resources: ResourceSettings
) -> None:
    for bundle in placement.bundles:
        assert bundle.get("CPU", 0) == resources.num_cpus
        assert all(bundle.values())
        types = [name for name in bundle if name.startswith("accelerator_type:")]
        expected = resources.accelerator_type
        assert types == ([f"accelerator_type:{expected}"] if expected else [])


def check_the_executor_matches_the_bundles(placement: Placement) -> None:
    if placement.executor == "ray":
        # vLLM refuses bundles of several GPUs, and every GPU belongs to a worker actor.
        assert all(bundle["GPU"] == 1 for bundle in placement.bundles)
        assert "GPU" not in placement.actor_resources
    else:
        assert len(placement.bundles) == 1
        assert placement.actor_resources["GPU"] == placement.bundles[0]["GPU"]
    assert (placement.executor == "uni") == (_gpus(placement) == 1)


def test_cpu_reserves_cores_only() -> None:
    placement = plan_placement(
        EngineSettings(), resources=ResourceSettings(device="cpu", num_cpus=2)
    )
    assert placement == Placement("uni", (), "PACK", {"CPU": 2.0})


@pytest.mark.parametrize(
    ("engine", "accelerator", "param"),
    [
        ({"tensor_parallel_size": 2}, None, "engine.tensor_parallel_size"),
        ({"pipeline_parallel_size": 2}, None, "engine.pipeline_parallel_size"),
        ({}, "H100", "resources.accelerator_type"),
    ],
)
def test_gpu_options_on_cpu_are_refused(
    engine: dict[str, int], accelerator: str | None, param: str
) -> None:
    resources = ResourceSettings(device="cpu", accelerator_type=accelerator)
    with pytest.raises(ConfigError) as caught:
        plan_placement(EngineSettings.model_validate(engine), resources=resources)
    assert caught.value.param == param
    assert caught.value.hint


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=24), st.integers(1, 4))
def test_spanning_agrees_with_vllms_rank_order(nodes: list[str], tensor_parallel: int) -> None:
    nodes = nodes[: len(nodes) // tensor_parallel * tensor_parallel]
    ranked = sorted(nodes)
    groups = [ranked[i : i + tensor_parallel] for i in range(0, len(ranked), tensor_parallel)]
    spans = any(len(set(group)) > 1 for group in groups)
    assert tensor_group_spans_nodes(nodes, tensor_parallel_size=tensor_parallel) == spans
