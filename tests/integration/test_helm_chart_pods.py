"""Pods of the chart: environment, rights, and that nothing rebuilds them by accident."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_chart import (
    CHART,
    ROOT,
    Object,
    Values,
    all_values,
    by_kind,
    containers,
    environment,
    preset_values,
    ray_pods,
    ray_service,
    render,
)

from serving.adapters.local_ports import LocalPorts
from serving.adapters.ray_cluster import cluster_environment
from serving.adapters.state_paths import StatePaths
from serving.gateway.edge import CALLBACK
from serving.settings.platform import Settings

NOT_IN_PODS = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"}
"""KubeRay gives each cluster a token; the address of a pod is for its neighbours."""
PODS_OWN = {
    "GALERNE_CACHE_DIR": "/models",
    "GALERNE_LOG_DIR": "/tmp/ray/galerne",
    "GALERNE_STATE_DIR": "/etc/galerne",
    "HF_HOME": "/models/huggingface",
    "HOME": "/tmp",
    "RAY_SERVE_HAPROXY_BINARY_PATH": "/opt/galerne/bin/galerne-haproxy",
}
OF_THIS_MACHINE = {"RAY_SERVE_HAPROXY_MAXCONN": "12288", "RAY_SERVE_HAPROXY_NBTHREAD": "4"}
"""What a machine with enough cores and file descriptors would get; KubeRay allows 65,536."""
LIMITS = {"header_timeout_s": 7, "upload_timeout_s": 80.5, "stalled_read_timeout_s": 30}
PRIVILEGES = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
EVERYTHING = all_values()


def with_limits(values: Values, limits: Object) -> Values:
    settings = values["settings"]
    gateway = {**settings["gateway"], "limits": limits}
    return {**values, "settings": {**settings, "gateway": gateway}}


def all_pods(values: Values) -> dict[str, Object]:
    """Every pod of a release, by name of its group."""
    objects = render(values)
    (service,) = by_kind(objects, "RayService")
    others = by_kind(objects, "Deployment")
    redis = {each["metadata"]["name"]: each["spec"]["template"] for each in others}
    return {**ray_pods(service["spec"]), **redis}


@pytest.mark.parametrize(
    "values",
    [preset_values("sim"), preset_values("gpu"), with_limits(preset_values("cpu"), LIMITS)],
    ids=["hub-not-needed", "hub-needed", "limits"],
)
def test_pods_have_the_environment_of_a_cluster_on_one_machine(
    values: Values,
) -> None:
    settings = Settings.model_validate(values["settings"])
    needs_hub = any(m.weights and "/" in m.weights.source for m in settings.models.values())
    expected = cluster_environment(
        settings,
        StatePaths.of(Path("/etc/galerne"), Path("/models")),
        run_dir=Path("/tmp/galerne"),
        edge=CALLBACK,
        ports=LocalPorts(haproxy_stats=8404, haproxy_metrics=9101, fallback_proxy=8500),
    )
    expected = {k: v for k, v in expected.items() if k not in NOT_IN_PODS} | PODS_OWN
    assert set(expected) >= set(OF_THIS_MACHINE)
    expected |= OF_THIS_MACHINE
    spec = ray_service({**values, "weights": {"huggingface": {"enabled": needs_hub}}})
    for pod in ray_pods(spec).values():
        for container in containers(pod):
            if container["name"] == "autoscaler":
                continue
            found = environment(container)
            found.pop("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", None)
            assert found == expected


def test_pods_outlive_the_longest_stream() -> None:
    values = preset_values("sim")
    slow = {**values["settings"]["models"]["sim"], "drain_timeout_s": 900.5}
    values = {**values, "settings": {**values["settings"], "models": {"sim": slow}}}
    spec = ray_service(values)
    pods = ray_pods(spec)
    worker = pods["cpu"]["spec"]
    drain_s = int(environment(worker["containers"][0])["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    sleep_s = int(worker["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    # Serve gives a replica 30 s more than its streams, and a new replica should have begun by then.
    assert drain_s == 901 + 60
    assert worker["terminationGracePeriodSeconds"] == sleep_s + drain_s + 20
    assert spec["rayClusterDeletionDelaySeconds"] == 901


def test_a_shorter_drain_changes_no_pod() -> None:
    values = preset_values("sim")
    fast = {**values["settings"]["models"]["sim"], "drain_timeout_s": 5}
    quick = {**values, "settings": {**values["settings"], "models": {"sim": fast}}}
    assert ray_service(quick)["rayClusterConfig"] == ray_service(values)["rayClusterConfig"]


@pytest.mark.parametrize("name", EVERYTHING)
def test_no_container_may_do_more_than_it_must(name: str) -> None:
    for pod in all_pods(EVERYTHING[name]).values():
        security = pod["spec"]["securityContext"]
        assert (security["runAsNonRoot"], security["fsGroup"]) == (True, 1000)
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(pod):
            assert container["securityContext"] == PRIVILEGES
            mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
            assert "/tmp" in mounts
            assert mounts.get("/etc/galerne", {"readOnly": True})["readOnly"]


@pytest.mark.parametrize("name", EVERYTHING)
def test_what_a_container_mounts_is_a_volume_of_its_pod(name: str) -> None:
    for pod in all_pods(EVERYTHING[name]).values():
        volumes = [each["name"] for each in pod["spec"]["volumes"]]
        mounted = {each["name"] for c in containers(pod) for each in c["volumeMounts"]}
        assert len(volumes) == len(set(volumes))
        assert mounted == set(volumes)


def test_only_gateways_and_the_autoscaler_get_a_token() -> None:
    pods = all_pods(EVERYTHING["multi-model-ha"])
    accounts = {
        name: (pod["spec"].get("serviceAccountName"), pod["spec"]["automountServiceAccountToken"])
        for name, pod in pods.items()
    }
    nobody = (None, False)
    expected = {"head": nobody, "cpu": ("g-gateway", True), "l40s": nobody, "h100": nobody}
    assert accounts == expected
    path = "/var/run/secrets/kubernetes.io/serviceaccount"
    head = {
        container["name"]: any(each["mountPath"] == path for each in container["volumeMounts"])
        for container in containers(pods["head"])
    }
    assert head == {"ray-head": False, "autoscaler": True}


def test_gateways_may_watch_and_nothing_else() -> None:
    objects = render({})
    roles = [*by_kind(objects, "Role"), *by_kind(objects, "ClusterRole")]
    rules = [rule for role in roles for rule in role["rules"]]
    watch = ["get", "list", "watch"]
    assert rules == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": watch},
        {"apiGroups": [""], "resources": ["nodes"], "verbs": watch},
    ]
    without = render({"rbac": {"nodeEvents": False}})
    assert not [each for each in without if "Role" in each["kind"]]
    pods = ray_pods(by_kind(without, "RayService")[0]["spec"])
    assert not any(pod["spec"]["automountServiceAccountToken"] for pod in pods.values())


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_new_version_of_the_chart_changes_no_pod(name: str, tmp_path: Path) -> None:
    """It would build a second cluster, which takes the same GPUs again."""
    newer = tmp_path / "galerne"
    shutil.copytree(CHART, newer)
    chart = yaml.safe_load((newer / "Chart.yaml").read_text())
    chart |= {"version": "99.0.0", "appVersion": "99.0.0"}
    (newer / "Chart.yaml").write_text(yaml.safe_dump(chart))
    assert ray_service(EVERYTHING[name], chart=newer) == ray_service(EVERYTHING[name])


def test_another_model_changes_no_pod() -> None:
    values = preset_values("sim")
    settings = values["settings"]
    models = {**settings["models"], "two": settings["models"]["sim"]}
    more = {**values, "settings": {**settings, "models": models}}
    config = ray_service(more)["rayClusterConfig"]
    assert config == ray_service(values)["rayClusterConfig"]
    assert "sim" not in str(config)


def test_the_head_is_selected_by_kuberays_own_label() -> None:
    """The head's service of a RayService selects app.kubernetes.io/name: kuberay."""
    for pod in ray_pods(ray_service({})).values():
        assert "app.kubernetes.io/name" not in pod["metadata"]["labels"]


def test_each_pod_offers_the_resource_of_its_pool() -> None:
    spec = ray_service(EVERYTHING["multi-model-ha"])
    offered = {
        group["groupName"]: group["rayStartParams"]["resources"]
        for group in spec["rayClusterConfig"]["workerGroupSpecs"]
    }
    assert offered == {name: f"'{{\"pool:{name}\": 1}}'" for name in ("cpu", "l40s", "h100")}
    assert spec["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_weights_are_fetched_without_naming_them() -> None:
    for name, pod in ray_pods(ray_service(EVERYTHING["multi-model-ha"])).items():
        commands = [each["command"] for each in pod["spec"].get("initContainers", [])]
        arguments = ["--settings", "/etc/galerne/settings.json", "--pool", name, "--best-effort"]
        assert commands == ([] if name == "head" else [["galerne", "model", "fetch", *arguments]])


def test_the_cluster_has_the_pinned_ray() -> None:
    project: Any = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = ray_service({})["rayClusterConfig"]["rayVersion"]
    assert f"ray[serve]=={version}" in project["dependencies"]


def test_a_digest_is_what_runs() -> None:
    pods = all_pods(EVERYTHING["sovereign-airgapped"])
    images = {each["image"] for pod in pods.values() for each in containers(pod)}
    (image,) = images
    assert image.startswith("registry.internal.example/llm/galerne@sha256:")


MODEL = {"simulator": {}, "resources": {"device": "cpu", "num_cpus": 0, "pool": "cpu"}}
SETTINGS = {"gateway": {"pool": "cpu"}, "models": {"m": MODEL}}
SCALING = {"scaling": {"max_replicas": 2}}
POOL = {"name": "cpu", "resources": {"cpu": 2, "memory": "4Gi"}, "minReplicas": 1, "maxReplicas": 3}
IN_PLACE: dict[str, Object] = {
    "model": {"settings": {**SETTINGS, "models": {"m": MODEL, "n": MODEL}}},
    "engine": {"settings": {**SETTINGS, "models": {"m": {**MODEL, "engine": {"block_size": 16}}}}},
    "scaling": {"settings": {**SETTINGS, "models": {"m": {**MODEL, **SCALING}}}},
    "gateways": {"settings": {**SETTINGS, "gateway": {"pool": "cpu", "replicas": 2}}},
    "tenancy": {"settings": {**SETTINGS, "tenancy": {"classes": {"gold": ["a"]}}}},
    "bounds-of-a-pool": {"pools": [{**POOL, "minReplicas": 2, "maxReplicas": 8}]},
    "pool-at-the-end": {"pools": [POOL, {**POOL, "name": "more"}]},
    "manifest": {"weights": {"manifests": {"m.sha256": "..."}}},
    "clients": {"networkPolicy": {"clients": []}},
    "upgrade-strategy": {"upgradeStrategy": {"type": "None"}},
}
NEW_CLUSTER: dict[str, Object] = {
    "image": {"image": {"tag": "0.2.0-cpu"}},
    "head": {"head": {"resources": {"cpu": "2"}}},
    "pod": {"pools": [{**POOL, "resources": {"cpu": 3, "memory": "4Gi"}}]},
    "pool-at-the-front": {"pools": [{**POOL, "name": "more"}, POOL]},
    "idle-timeout": {"pools": [{**POOL, "idleTimeoutSeconds": 600}]},
    "gateways-pool": {
        "settings": {**SETTINGS, "gateway": {"pool": "more"}},
        "pools": [POOL, {**POOL, "name": "more"}],
    },
    "longer-drain": {"settings": {**SETTINGS, "models": {"m": {**MODEL, "drain_timeout_s": 900}}}},
    "header-timeout": {
        "settings": {**SETTINGS, "gateway": {"pool": "cpu", "limits": {"header_timeout_s": 5}}}
    },
    "redis": {"redis": {"external": {"address": "redis:6379"}}},
    "hub": {"weights": {"huggingface": {"enabled": True}}},
    "claim": {"weights": {"claim": {"existing": "models"}}},
    "secret": {"secrets": {"existing": "keys"}},
}


def cluster_identity(change: Object) -> Object:
    """What KubeRay compares: everything but numbers of pods, and groups that came at the end.

    Source: KubeRay 1.7, `GenerateHashWithoutReplicasAndWorkersToDelete`, `isClusterSpecHashEqual`.
    """
    values = {"settings": SETTINGS, "pools": [POOL], **change}
    cluster: Object = ray_service(values)["rayClusterConfig"]
    (group, *_) = cluster["workerGroupSpecs"]
    kept = {k: v for k, v in group.items() if k not in ("replicas", "minReplicas", "maxReplicas")}
    return {**cluster, "workerGroupSpecs": [kept]}


@pytest.mark.parametrize("name", IN_PLACE)
def test_what_changes_in_place(name: str) -> None:
    assert cluster_identity(IN_PLACE[name]) == cluster_identity({})


@pytest.mark.parametrize("name", NEW_CLUSTER)
def test_what_builds_a_new_cluster(name: str) -> None:
    assert cluster_identity(NEW_CLUSTER[name]) != cluster_identity({})
