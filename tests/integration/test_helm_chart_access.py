"""Who gets in and out of a release: Secret, network policies, ingress, disruptions, Redis."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from helm_chart import (
    Object,
    Values,
    all_values,
    by_kind,
    containers,
    environment,
    ray_pods,
    ray_service,
    render,
)

from serving.adapters.key_store import KeyFile

EVERYTHING = all_values()
OUTSIDE = "0.0.0.0/0"
REDIS = {"redis": {"bundled": {"enabled": True}}}


def policies(values: Values) -> dict[str, Object]:
    found = by_kind(render(values), "NetworkPolicy")
    return {each["metadata"]["name"]: each["spec"] for each in found}


def ways_out(values: Values) -> list[Object]:
    return [peer for rule in policies(values)["g-ray"]["egress"] for peer in rule["to"]]


def test_everything_of_a_release_is_closed_first() -> None:
    deny = policies(REDIS)["g-deny"]
    assert deny["podSelector"]["matchLabels"] == {"app.kubernetes.io/instance": "g"}
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny
    assert "egress" not in deny
    objects = render(REDIS)
    cluster = by_kind(objects, "RayService")[0]["spec"]["rayClusterConfig"]
    templates = [
        cluster["headGroupSpec"]["template"],
        *(group["template"] for group in cluster["workerGroupSpecs"]),
        *(each["spec"]["template"] for each in by_kind(objects, "Deployment")),
    ]
    assert {t["metadata"]["labels"]["app.kubernetes.io/instance"] for t in templates} == {"g"}


@pytest.mark.parametrize("name", EVERYTHING)
def test_only_a_hub_opens_a_way_out(name: str) -> None:
    values = EVERYTHING[name]
    blocks = [peer["ipBlock"] for peer in ways_out(values) if "ipBlock" in peer]
    is_open = bool(values.get("weights", {}).get("huggingface", {}).get("enabled"))
    assert (OUTSIDE in [block["cidr"] for block in blocks]) == is_open
    assert all(peer for peer in ways_out(values)), "an empty peer is everybody"


def test_object_storage_is_reached_where_it_is_and_with_its_secret() -> None:
    storage = {
        "enabled": True,
        "environment": {"AWS_ENDPOINT_URL": "https://s3.internal:9000"},
        "credentialsSecret": "s3",
        "cidrs": ["10.20.0.0/16"],
        "port": 9000,
    }
    values = {"weights": {"objectStorage": storage}}
    rules = policies(values)["g-ray"]["egress"]
    found = {"to": [{"ipBlock": {"cidr": "10.20.0.0/16"}}], "ports": [tcp(9000)]}
    assert found in rules
    (pod,) = (pod for name, pod in ray_pods(ray_service(values)).items() if name != "head")
    for container in containers(pod):
        assert environment(container)["AWS_ENDPOINT_URL"] == "https://s3.internal:9000"
        assert container["envFrom"] == [{"secretRef": {"name": "s3"}}]
    head = ray_pods(ray_service(values))["head"]
    assert all("envFrom" not in container for container in containers(head))


def tcp(port: int) -> Object:
    return {"protocol": "TCP", "port": port}


def test_without_an_allowed_client_nobody_asks() -> None:
    rules = policies({"networkPolicy": {"clients": []}})["g-ray"]["ingress"]
    named = [rule["from"] for rule in rules]
    assert len(named) == 2  # the pods themselves, the operator


def test_the_operator_reaches_the_dashboard_and_the_proxies() -> None:
    rules = policies({})["g-ray"]["ingress"]
    operator = {"app.kubernetes.io/name": "kuberay-operator"}
    (ports,) = (
        [each["port"] for each in rule["ports"]]
        for rule in rules
        if rule["from"][0]["podSelector"].get("matchLabels") == operator
    )
    assert ports == [8265, 8000]


def test_policies_can_be_left_to_somebody_else() -> None:
    assert policies({"networkPolicy": {"enabled": False}}) == {}


def test_a_made_secret_holds_what_the_platform_reads(tmp_path: Path) -> None:
    first, second = secret_data(), secret_data(image={"tag": "other"})
    assert set(first) == {"internal-token", "metrics-token", "keys.json"}
    assert first["internal-token"] != second["internal-token"]
    assert len(first["internal-token"]) >= 43
    file = tmp_path / "keys.json"
    file.write_text(first["keys.json"])
    assert KeyFile(file).list() == ()


def secret_data(**values: Object) -> dict[str, str]:
    (secret,) = by_kind(render({"secrets": {"create": True}, **values}), "Secret")
    assert secret["metadata"]["name"] == "g-secrets"
    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


def test_an_existing_secret_is_mounted_and_not_made() -> None:
    values = {"secrets": {"existing": "keys"}}
    assert by_kind(render(values), "Secret") == []
    head = ray_service(values)["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    (state,) = (volume for volume in head["volumes"] if volume["name"] == "state")
    secret, settings = state["projected"]["sources"]
    assert secret["secret"]["name"] == "keys"
    assert settings["configMap"]["name"] == "g-settings"
    # Of the pod's user and group only.
    assert state["projected"]["defaultMode"] == 0o440


def test_ingress_has_tls_and_ends_at_the_service_of_the_release() -> None:
    (ingress,) = by_kind(render(EVERYTHING["sovereign-airgapped"]), "Ingress")
    (tls,) = ingress["spec"]["tls"]
    (rule,) = ingress["spec"]["rules"]
    assert tls == {"hosts": [rule["host"]], "secretName": "llm-tls"}
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"] == {"name": "g-serve-svc", "port": {"number": 8000}}


def test_incremental_upgrades_are_given_to_kuberay() -> None:
    assert ray_service(EVERYTHING["multi-model-ha"])["upgradeStrategy"] == {
        "type": "NewClusterWithIncrementalUpgrade",
        "clusterUpgradeOptions": {
            "gatewayClassName": "istio",
            "maxSurgePercent": 50,
            "stepSizePercent": 25,
            "intervalSeconds": 60,
        },
    }
    assert ray_service({})["upgradeStrategy"] == {"type": "NewCluster"}


def test_pools_of_several_pods_lose_one_at_a_time() -> None:
    budgets = by_kind(render(EVERYTHING["multi-model-ha"]), "PodDisruptionBudget")
    stay = {b["metadata"]["name"]: b["spec"]["minAvailable"] for b in budgets}
    assert stay == {"g-cpu": 1, "g-h100": 1}
    assert all(isinstance(least, int) for least in stay.values())
    off = {**EVERYTHING["multi-model-ha"], "podDisruptionBudgets": {"enabled": False}}
    assert by_kind(render(off), "PodDisruptionBudget") == []


@pytest.mark.parametrize(
    ("values", "address"),
    [
        ({}, None),
        (REDIS, "g-redis:6379"),
        (EVERYTHING["multi-model-ha"], "rediss://redis.data.svc:6380"),
    ],
)
def test_the_heads_state_is_where_values_say(values: Values, address: str | None) -> None:
    options = ray_service(values)["rayClusterConfig"].get("gcsFaultToleranceOptions")
    if address is None:
        assert options is None
        return
    assert (options["backend"], options["redisAddress"]) == ("redis", address)
    assert options["redisPassword"]["valueFrom"]["secretKeyRef"]["key"] == "password"
    # Set, it would be that of both clusters during an upgrade.
    assert "externalStorageNamespace" not in options


def test_only_rays_pods_reach_the_bundled_redis() -> None:
    (rule,) = policies(REDIS)["g-redis"]["ingress"]
    (peer,) = rule["from"]
    assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/part-of"] == "galerne"
    (service,) = by_kind(render(REDIS), "Service")
    (deployment,) = by_kind(render(REDIS), "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels == deployment["spec"]["selector"]["matchLabels"]


def test_manifests_lie_beside_the_settings() -> None:
    values = EVERYTHING["sovereign-airgapped"]
    (config,) = (
        each["data"]
        for each in by_kind(render(values), "ConfigMap")
        if each["metadata"]["name"] == "g-settings"
    )
    model = values["settings"]["models"]["mistral-7b"]
    name = model["weights"]["sha256_manifest"].removeprefix("/etc/galerne/")
    assert config[name] == values["weights"]["manifests"][name]
