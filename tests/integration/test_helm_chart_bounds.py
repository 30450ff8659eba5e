"""Bounds on the way from an order to a GPU agree, and a value that cannot work is named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helm_chart import CHART, Object, Values, all_values, ray_service, render, require_helm

GPU = {"name": "gpu", "resources": {"cpu": 16, "memory": "64Gi"}, "gpus": 2}
CPU = {"name": "cpu", "resources": {"cpu": 4, "memory": "8Gi"}, "minReplicas": 1}
FROM_HUB = {"source": "org/name", "revision": "0" * 40}
INCREMENTAL = {"type": "NewClusterWithIncrementalUpgrade", "gatewayClassName": "istio"}
INGRESS = {"enabled": True, "host": "llm.example", "tlsSecret": "tls"}


def model(tensor: int = 1, stages: int = 1, cpus: float = 1, **more: Any) -> Object:
    return {
        "weights": {"source": "/models/m"},
        "resources": {"pool": "gpu", "num_cpus": cpus},
        "engine": {"tensor_parallel_size": tensor, "pipeline_parallel_size": stages},
        **more,
    }


def scaled(most: int, **more: Any) -> Object:
    capacity = {"prompt_token_s": 0.00006, "output_token_s": 0.0007}
    return model(**more) | {"scaling": {"max_replicas": most, "capacity": capacity}}


def values(*models: Object, pool: Object | None = None, **settings: Any) -> Values:
    named = {f"m{place}": each for place, each in enumerate(models)}
    return {
        "settings": {"gateway": {"pool": "cpu"}, "models": named, **settings},
        "pools": [CPU, {**GPU, **(pool or {})}],
    }


def most_pods(found: Values) -> int:
    groups = ray_service(found)["rayClusterConfig"]["workerGroupSpecs"]
    return next(g["maxReplicas"] for g in groups if g["groupName"] == "gpu")  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("models", "pods"),
    [
        pytest.param([model()], 1, id="one-gpu"),
        pytest.param([model(replicas=5)], 3, id="replicas-share-pods"),
        pytest.param([model(), model()], 1, id="models-share-a-pod"),
        pytest.param([model(tensor=2, replicas=3)], 3, id="tensor-parallel"),
        pytest.param([model(tensor=2, stages=3)], 3, id="stages-on-several-pods"),
        pytest.param([scaled(7)], 4, id="scaled"),
        pytest.param([scaled(4, cpus=16)], 4, id="cores-are-what-is-short"),
    ],
)
def test_a_pool_may_have_the_pods_that_its_models_may_need(models: list[Object], pods: int) -> None:
    assert most_pods(values(*models)) == pods


def test_gpus_that_no_group_fits_into_do_not_count() -> None:
    assert most_pods(values(model(tensor=3, replicas=2), pool={"gpus": 4})) == 2


def test_a_pool_may_have_more_pods_than_needed() -> None:
    assert most_pods(values(model(), pool={"maxReplicas": 9})) == 9
    assert most_pods(values(model(), pool={"minReplicas": 3})) == 3


REFUSED = {
    "too-few-pods": (
        values(scaled(7), pool={"maxReplicas": 3}),
        "maxReplicas of gpu is 3, but the most replicas that settings allow its models need 4 pods",
    ),
    "bounds": (
        values(model(), pool={"minReplicas": 3, "maxReplicas": 2}),
        "minReplicas of gpu (3) is above its maxReplicas (2)",
    ),
    "group-too-large": (
        values(model(tensor=4)),
        "settings.models.m0 needs 4 GPUs on one node, but a pod of pool gpu has gpus: 2",
    ),
    "no-gpu": (
        values(model(), pool={"gpus": 0}),
        "settings.models.m0 needs 1 GPUs on one node, but a pod of pool gpu has gpus: 0",
    ),
    "too-many-cores": (
        values(model(cpus=17)),
        "settings.models.m0.resources.num_cpus is 17, but a pod of pool gpu has resources.cpu: 16",
    ),
    "budget": (
        values(model(), autoscaler={"gpu_budget": 3}),
        "settings.autoscaler.gpu_budget is 3, but pools may have 2 GPUs together",
    ),
    "models-pool": (
        values(model(resources={"pool": "tpu"})),
        "settings.models.m0.resources.pool must name one of pools (cpu, gpu)",
    ),
    "no-models-pool": (
        values(model(resources={})),
        "settings.models.m0.resources.pool must name one of pools (cpu, gpu)",
    ),
    "gateways-pool": (
        values(model(), gateway={"replicas": 2}),
        "settings.gateway.pool must name one of pools (cpu, gpu)",
    ),
    "prometheus-out-of-reach": (
        values(model(), autoscaler={"prometheus_url": "http://prometheus:9090"}),
        "settings.autoscaler.prometheus_url is out of reach: networkPolicy.prometheus names nobody",
    ),
    "pool-twice": ({"pools": [CPU, CPU]}, "pools: cpu is listed twice"),
    "hub-is-closed": (
        values(model(weights=FROM_HUB)),
        "settings.models.m0.weights.source is fetched from a hub",
    ),
    "storage-is-closed": (
        values(model(weights={"source": "s3://models/m", "manifest_sha256": "0" * 64})),
        "settings.models.m0.weights.source is in object storage",
    ),
    "two-claims": (
        {"weights": {"claim": {"create": True, "existing": "models"}}},
        "weights.claim: either existing or create",
    ),
    "two-redis": (
        {"redis": {"bundled": {"enabled": True}, "external": {"address": "redis:6379"}}},
        "redis: either bundled.enabled or external.address",
    ),
    "two-secrets": (
        {"secrets": {"create": True, "existing": "keys"}},
        "secrets: either existing or create",
    ),
    "no-gateway-class": (
        {"upgradeStrategy": {"type": "NewClusterWithIncrementalUpgrade"}},
        "upgradeStrategy.gatewayClassName is needed",
    ),
    "steps": (
        {"upgradeStrategy": {**INCREMENTAL, "stepSizePercent": 60, "maxSurgePercent": 50}},
        "upgradeStrategy.stepSizePercent (60) is above maxSurgePercent (50)",
    ),
    "ingress-past-the-split": (
        {"upgradeStrategy": INCREMENTAL, "ingress": INGRESS},
        "ingress.service.name must be the service of Gateway g-gateway",
    ),
    "route-past-the-split": (
        {
            "upgradeStrategy": INCREMENTAL,
            "httpRoute": {"enabled": True, "parentRefs": [{"name": "edge"}]},
        },
        "httpRoute.enabled: with NewClusterWithIncrementalUpgrade KubeRay makes",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_values_that_cannot_work_together_are_named(name: str) -> None:
    found, message = REFUSED[name]
    helm = require_helm()
    with pytest.raises(helm.HelmError) as refusal:
        render(found)
    assert message in str(refusal.value)


MISSPELT: dict[str, Object] = {
    "top": {"setings": {}},
    "settings": {"settings": {"models": {"m": {**model(), "replica": 2}}}},
    "settings-type": {"settings": {"models": {"m": {**model(), "replicas": "two"}}}},
    "endpoint": {"settings": {"endpoint": {"port": 80}, "models": {"m": model()}}},
    "cluster": {"settings": {"cluster": {"address": "auto"}, "models": {"m": model()}}},
    "pool": {"pools": [{**CPU, "gpu": 1}]},
    "fractional-cores": {"pools": [{**CPU, "resources": {"cpu": "500m", "memory": "1Gi"}}]},
    "digest": {"image": {"digest": "sha256:abc"}},
    "strategy": {"upgradeStrategy": {"type": "Recreate"}},
    "plain-http": {"ingress": {"enabled": True, "host": "llm.example"}},
    "route-to-nowhere": {"httpRoute": {"enabled": True}},
    "no-pools": {"pools": []},
}


@pytest.mark.parametrize("name", MISSPELT)
def test_helms_schema_refuses_what_it_does_not_know(name: str) -> None:
    helm = require_helm()
    with pytest.raises(helm.HelmValuesError):
        render(MISSPELT[name])


@pytest.mark.parametrize("name", all_values())
def test_helm_finds_no_fault(name: str) -> None:
    report = require_helm().lint(CHART, json.loads(json.dumps(all_values()[name])), strict=True)
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []
