"""`galerne k8s` on a test server: what it does, and what it says when the cluster fails."""

from __future__ import annotations

import base64
import copy
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kube_platform as made
import pytest
import yaml
from kube_api.faults import Fault
from kube_api.server import running_kube_api
from kube_platform import MODEL, NAMESPACE, Operated
from prometheus_tools import running_prometheus

from loadtest.processes import free_port
from serving.adapters.key_records import decode, utc_now
from serving.tenancy.access import KeyState


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operated]:
    with running_kube_api() as api:
        monkeypatch.setenv("KUBECONFIG", str(api.write_kubeconfig(tmp_path / "config")))
        yield Operated(api)


@pytest.fixture
def installed(platform: Operated) -> Operated:
    platform.install()
    return platform


def written(folder: Path, *objects: dict[str, Any]) -> str:
    """A file with these objects, as a person would write them."""
    file = folder / "objects.yaml"
    plain = [{key: value for key, value in each.items() if key != "status"} for each in objects]
    for each in plain:
        each["metadata"] = {"name": each["metadata"]["name"]}
    file.write_text(yaml.safe_dump_all(plain))
    return str(file)


# status and wait


def test_status_shows_all_of_it(installed: Operated) -> None:
    installed.api.put(made.pod("worker-2", node="", **made.unschedulable()))
    document = installed.run_json("status")
    assert document["phase"] == "ready"
    assert [pod["name"] for pod in document["pods"]] == ["head", "worker-1", "worker-2"]
    assert document["pending_gpu_pods"] == ["worker-2"]
    assert document["clusters"][0]["groups"] == [{"name": "gpu", "replicas": 1, "min": 1, "max": 2}]
    assert {each["name"] for each in document["applications"]} == {"galerne", f"engine:{MODEL}"}
    code, output = installed.run("status")
    assert code == 0  # It serves; more than there is room for is the policy's wish.
    assert "Insufficient nvidia.com/gpu" in output


def test_a_server_that_was_never_there_is_not_waited_for(
    platform: Operated, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = platform.api.write_kubeconfig(tmp_path / "wrong")
    file.write_text(file.read_text().replace(platform.api.url, f"http://127.0.0.1:{free_port()}"))
    monkeypatch.setenv("KUBECONFIG", str(file))
    code, output = platform.run("wait", "--timeout", "600")
    assert (code, "cannot be reached" in output) == (1, True)
    assert platform.now_s < 60


def test_status_of_nothing_fails(platform: Operated) -> None:
    code, output = platform.run("status")
    assert code == 1
    assert "there is no RayService 'galerne'" in output


def test_wait_tells_what_it_waits_for(installed: Operated) -> None:
    loading = made.ready_status(1, state="DEPLOYING")
    installed.set_status(loading)
    installed.steps = [lambda: None, lambda: installed.set_status(made.ready_status(1))]
    code, output = installed.run("wait")
    assert code == 0
    assert f"application engine:{MODEL}: deploying" in output


def test_wait_ends_in_time_and_with_its_own_status(installed: Operated) -> None:
    installed.set_status(made.ready_status(1, state="DEPLOYING"))
    code, output = installed.run("wait", "--timeout", "60")
    assert code == 3
    assert f"not ready within 60 s: application engine:{MODEL}: deploying" in output
    assert installed.now_s < 70


def test_wait_ends_when_it_has_failed(installed: Operated) -> None:
    failed = made.ready_status(1)
    failed["activeServiceStatus"]["applicationStatuses"] = made.statuses(
        "DEPLOY_FAILED", "the weights are not there\nTraceback"
    )
    installed.set_status(failed)
    code, output = installed.run("wait")
    assert code == 1
    assert f"application engine:{MODEL}: the weights are not there" in output


def test_watch_follows_until_it_is_ready(installed: Operated) -> None:
    installed.set_status(made.ready_status(1, state="DEPLOYING"))
    installed.steps = [lambda: None, lambda: installed.set_status(made.ready_status(1))]
    code, output = installed.run("status", "--watch")
    assert code == 0
    assert output.count("galerne in default is") == 2


@pytest.mark.parametrize("fault", [Fault.INTERNAL_ERROR, Fault.TOO_MANY_REQUESTS])
def test_wait_outlives_a_server_that_fails(installed: Operated, fault: Fault) -> None:
    installed.api.faults.order(fault, times=5)
    assert installed.run("wait")[0] == 0


# failures of the cluster


def test_an_expired_token_is_one_line(installed: Operated) -> None:
    installed.api.token = "another"
    code, output = installed.run("status")
    assert code == 2
    assert "credentials are wrong or have expired" in output


def test_a_missing_crd_is_one_line(platform: Operated) -> None:
    for plural in ("rayservices", "rayclusters"):
        platform.api.delete(
            "apiextensions.k8s.io/v1", "CustomResourceDefinition", f"{plural}.ray.io"
        )
    code, output = platform.run("status")
    assert code == 2
    assert "no rayservices.ray.io" in output
    assert "KubeRay" in output


def test_a_server_that_is_down_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_kube_api() as api:
        monkeypatch.setenv("KUBECONFIG", str(api.write_kubeconfig(tmp_path / "config")))
    code, output = Operated(api).run("status")
    assert code == 1
    assert "cannot be reached" in output


def test_a_server_that_hangs_costs_the_time_that_was_given(installed: Operated) -> None:
    installed.api.faults.order(Fault.HANG, times=99)
    code, output = installed.run("doctor", "--timeout", "0.1")
    assert code == 3
    assert "no answer within 0.1 s" in output


# apply


def test_apply_tells_what_is_missing_before_it_changes_anything(
    platform: Operated, tmp_path: Path
) -> None:
    file = written(tmp_path, made.config_map(made.settings()), made.service())
    code, output = platform.run("apply", file, "--namespace", "prod")
    assert code == 2
    assert "namespace 'prod'" in output
    code, output = platform.run("apply", file)
    assert code == 2
    assert "there is no Secret 'galerne-secrets'" in output
    assert not any(line.startswith("patch") for line in platform.api.log)


def test_apply_goes_on_where_no_deployment_is_the_operator(
    platform: Operated, tmp_path: Path
) -> None:
    secret = made.secret("internal-token", "metrics-token", "keys.json")
    file = written(tmp_path, made.service(), secret)
    code, output = platform.run("apply", file)
    assert code == 0, output
    assert "no Deployment is labelled as KubeRay's operator" in output
    operator = made.operator()
    operator["metadata"]["labels"] = {
        "app.kubernetes.io/name": "kuberay", "app.kubernetes.io/component": "kuberay-operator",
    }  # fmt: skip
    platform.api.put(operator)
    assert "no Deployment" not in platform.run("apply", file)[1]


def test_apply_names_kinds_that_the_cluster_lacks(platform: Operated, tmp_path: Path) -> None:
    monitor = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor",
               "metadata": {"name": "m"}}  # fmt: skip
    code, output = platform.run("apply", written(tmp_path, monitor))
    assert code == 2
    assert "monitoring.coreos.com/v1" in output


def test_apply_makes_a_platform_with_what_it_needs(platform: Operated, tmp_path: Path) -> None:
    platform.api.put(made.operator())
    secret = made.secret("internal-token", "metrics-token", "keys.json")
    file = written(tmp_path, made.service(), secret, made.config_map(made.settings()))
    code, output = platform.run("apply", file)
    assert code == 0, output
    assert platform.service["spec"]["rayClusterConfig"]["rayVersion"] == "2.60.0"
    document = platform.run_json("apply", file)
    assert [each["action"] for each in document["objects"]] == ["keep"] * 3


def test_apply_knows_a_change_in_place_from_a_new_cluster(
    platform: Operated, tmp_path: Path
) -> None:
    platform.api.put(made.operator())
    secret = made.secret("internal-token", "metrics-token", "keys.json")
    platform.run("apply", written(tmp_path, made.service(), secret))
    bounds = written(tmp_path, made.service(most=5))
    assert "(in place: rayClusterConfig.workerGroupSpecs" in platform.run("apply", bounds)[1]
    image = written(tmp_path, made.service(most=5, image="galerne:2"))
    code, output = platform.run("apply", image, "--dry-run", "--diff")
    assert code == 0
    assert "new cluster: rayClusterConfig.headGroupSpec.template" in output
    assert "takes its GPUs twice" in output
    assert re.search(r"\+ +- image: galerne:2", output)
    head = platform.service["spec"]["rayClusterConfig"]["headGroupSpec"]
    assert head["template"]["spec"]["containers"][0]["image"] == "galerne:1"


def test_apply_lets_changed_bounds_reach_the_cluster_that_runs(
    installed: Operated, tmp_path: Path
) -> None:
    file = written(tmp_path, made.service(least=2, most=7))
    installed.api.faults.order(Fault.FORBIDDEN, verb="update", path="rayclusters")
    code, output = installed.run("apply", file, "--force")
    assert code == 0, output
    assert "have not reached RayCluster galerne-a (you may not update" in output
    assert "not reached" not in installed.run("apply", file, "--force")[1]
    (group,) = installed.cluster["spec"]["workerGroupSpecs"]
    assert (group["minReplicas"], group["maxReplicas"], group["replicas"]) == (2, 7, 2)


def test_apply_leaves_fields_of_others_alone(installed: Operated, tmp_path: Path) -> None:
    file = written(tmp_path, made.service(most=7))
    code, output = installed.run("apply", file)
    assert code == 1
    assert 'conflict with "setup"' in output
    assert installed.run("apply", file, "--force")[0] == 0
    (group,) = installed.service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert group["maxReplicas"] == 7


def test_an_apply_that_stops_halfway_says_where(platform: Operated, tmp_path: Path) -> None:
    platform.api.put(made.operator())
    secret = made.secret("internal-token", "metrics-token", "keys.json")
    file = written(tmp_path, made.service(), secret)
    platform.run("apply", file)
    changed = made.service(most=3)
    changed_secret = copy.deepcopy(secret)
    changed_secret["data"]["more"] = ""
    file = written(tmp_path, changed, changed_secret)
    # The dry runs pass, then the RayService is refused for longer than the command waits.
    original = platform.api.faults.next_for

    def refused_once_applied(verb: str, path: str) -> Any:
        applied = [x for x in platform.api.log if x.startswith("patch") and "secrets" in x]
        if verb == "patch" and "rayservices" in path and len(applied) > 3:
            return Fault.FORBIDDEN, None
        return original(verb, path)

    platform.api.faults.next_for = refused_once_applied  # type: ignore[method-assign]
    code, output = platform.run("apply", file)
    assert code == 1
    assert "RayService galerne was not applied" in output
    assert "applied before it: Secret galerne-secrets" in output


# scale


def test_scale_changes_every_place_that_has_a_say(platform: Operated) -> None:
    platform.install(made.settings(min_replicas=1, max_replicas=2), least=1, most=2)
    code, output = platform.run("scale", MODEL, "--min", "2", "--max", "6")
    assert code == 0, output
    for value in (platform.service["spec"]["rayClusterConfig"], platform.cluster["spec"]):
        (group,) = value["workerGroupSpecs"]
        assert (group["minReplicas"], group["maxReplicas"]) == (2, 6)
        assert group["replicas"] == 2
    document = yaml.safe_load(platform.service["spec"]["serveConfigV2"])
    (deployment,) = document["applications"][1]["deployments"]
    assert deployment["autoscaling_config"] == {"min_replicas": 2, "max_replicas": 6}
    scaling = platform.settings["models"][MODEL]["scaling"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (2, 6)
    assert "RayCluster galerne-a, RayService galerne, ConfigMap galerne-settings" in output
    assert "nothing to change" in platform.run("scale", MODEL, "--max", "6")[1]


def test_scale_of_a_fixed_number(installed: Operated) -> None:
    assert installed.run("scale", MODEL, "--replicas", "2")[0] == 0
    document = yaml.safe_load(installed.service["spec"]["serveConfigV2"])
    assert document["applications"][1]["deployments"][0]["num_replicas"] == 2
    assert installed.settings["models"][MODEL]["replicas"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("none", "--replicas", "2"), "there is no model 'none'"),
        ((MODEL, "--max", "2"), "fixed number"),
        ((MODEL,), "nothing to change"),
    ],
)
def test_scale_refuses_what_makes_no_sense(
    installed: Operated, words: tuple[str, ...], message: str
) -> None:
    code, output = installed.run("scale", *words)
    assert code == 2
    assert message in output


def test_scale_keeps_the_rules_of_settings(platform: Operated) -> None:
    platform.install(made.settings(min_replicas=1, max_replicas=2))
    code, output = platform.run("scale", MODEL, "--min", "5")
    assert code == 2
    assert "min_replicas (5) is above max_replicas (2)" in output
    assert not any(line.startswith("update") for line in platform.api.log)


def test_scale_outlives_a_storm_of_conflicts(installed: Operated) -> None:
    installed.api.faults.order(Fault.CONFLICT, verb="update", times=6)
    assert installed.run("scale", MODEL, "--replicas", "2")[0] == 0


def test_a_scale_that_stops_halfway_goes_on_when_repeated(platform: Operated) -> None:
    platform.install(made.settings(min_replicas=1, max_replicas=2))
    platform.api.faults.order(Fault.FORBIDDEN, verb="update", path="configmaps")
    code, output = platform.run("scale", MODEL, "--max", "4")
    assert code == 1
    assert "ConfigMap galerne-settings was not changed" in output
    assert "changed before it: RayCluster galerne-a, RayService galerne" in output
    assert platform.run("scale", MODEL, "--max", "4")[0] == 0
    assert platform.settings["models"][MODEL]["scaling"]["max_replicas"] == 4
    (group,) = platform.cluster["spec"]["workerGroupSpecs"]
    assert group["maxReplicas"] == 4


def test_scale_mends_a_cluster_that_bounds_did_not_reach(platform: Operated) -> None:
    platform.install(made.settings(min_replicas=1, max_replicas=5), most=5)
    platform.api.put(made.cluster(most=2))
    assert "bounds_not_passed_on" in [
        each["code"] for each in platform.run_json("doctor")["findings"]
    ]
    code, output = platform.run("scale", MODEL, "--max", "5")
    assert code == 0
    assert "changed RayCluster galerne-a" in output
    (group,) = platform.cluster["spec"]["workerGroupSpecs"]
    assert group["maxReplicas"] == 5


# doctor


def test_doctor_finds_nothing_but_missing_monitoring(installed: Operated) -> None:
    found = installed.run_json("doctor")
    assert [each["code"] for each in found["findings"]] == ["not_scraped"]


def test_doctor_asks_a_prometheus(installed: Operated, tmp_path: Path) -> None:
    worker = made.pod("worker-1")
    worker["status"]["podIP"] = "127.0.0.1"
    installed.api.put(worker)
    labels = {"component": "gateway", "replica": "a1", "deployed_model": ""}
    target = {"targets": [f"127.0.0.1:{free_port()}"], "labels": labels}
    config = tmp_path / "prometheus.yml"
    job = {"job_name": "galerne", "scrape_interval": "1s", "static_configs": [target]}
    config.write_text(yaml.safe_dump({"scrape_configs": [job]}))
    port = free_port()
    with running_prometheus(config, port=port) as prometheus:
        ends_at = time.monotonic() + 30
        while [each["health"] for each in prometheus.targets()] != ["down"]:
            assert time.monotonic() < ends_at, "it is not scraped yet"
            time.sleep(0.1)
        words = ("doctor", "--prometheus", f"http://127.0.0.1:{port}")
        none, down = installed.run_json(*words)["findings"]
    assert "no engine of the platform" in none["what"]
    assert down["what"] == "Prometheus cannot scrape gateway a1"
    assert "connection refused" in down["why"]
    code, output = installed.run(*words)
    assert code == 1
    assert f"Prometheus at http://127.0.0.1:{port} does not answer" in output


def test_doctor_names_the_missing_operator_and_crds(platform: Operated) -> None:
    for plural in ("rayservices", "rayclusters"):
        platform.api.delete(
            "apiextensions.k8s.io/v1", "CustomResourceDefinition", f"{plural}.ray.io"
        )
    code, output = platform.run("doctor")
    assert code == 1
    assert "the cluster has no rayservices.ray.io" in output
    assert "KubeRay's operator is not installed" in output


def test_doctor_tells_a_missing_namespace_and_missing_settings(installed: Operated) -> None:
    found = installed.run_json("doctor", "--namespace", "prod")
    assert [each["code"] for each in found["findings"]] == ["namespace_missing"]
    assert found["unread"] == []
    installed.api.delete("v1", "ConfigMap", "galerne-settings", NAMESPACE)
    found = installed.run_json("doctor")
    assert [each["code"] for each in found["findings"]] == ["settings_missing", "not_scraped"]
    assert found["unread"] == []


def test_doctor_says_what_it_may_not_read(installed: Operated) -> None:
    installed.api.faults.order(Fault.FORBIDDEN, path="leases")
    installed.api.faults.order(Fault.FORBIDDEN, path="secrets")
    found = installed.run_json("doctor")
    assert found["unread"] == ["leases", "secrets"]
    assert "secret_missing" not in [each["code"] for each in found["findings"]]


# drain


def test_drain_moves_the_platform_s_pods_and_nobody_else_s(installed: Operated) -> None:
    other = made.pod("other", of="another-cluster")
    installed.api.put(other)
    code, output = installed.run("drain", "node-1")
    assert code == 0, output
    assert installed.api.get("v1", "Node", "node-1")["spec"]["unschedulable"] is True
    assert installed.api.get("v1", "Pod", "other", NAMESPACE)
    order = [x for x in installed.api.log if x.endswith("/eviction")]
    assert [each.split("/")[-2] for each in order] == ["worker-1", "head"]
    assert "head is on this node" in output


def test_drain_lets_the_head_wait_for_the_workers(installed: Operated) -> None:
    installed.api.put(budget(0))
    installed.run("drain", "node-1", "--timeout", "10")
    assert installed.api.get("v1", "Pod", "head", NAMESPACE)
    assert not [x for x in installed.api.log if x.endswith("head/eviction")]


def test_drain_of_an_unknown_platform_cordons_nothing(installed: Operated) -> None:
    code, output = installed.run("drain", "node-1", "--name", "galern")
    assert code == 1
    assert "there is no RayService 'galern'" in output
    assert not installed.api.get("v1", "Node", "node-1")["spec"].get("unschedulable")


def budget(allowed: int) -> dict[str, Any]:
    selector = {"matchLabels": {"ray.io/group": "gpu"}}
    return {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "gpu", "namespace": NAMESPACE},
        "spec": {"minAvailable": 1, "selector": selector},
        "status": {"disruptionsAllowed": allowed, "desiredHealthy": 1, "currentHealthy": 1,
                   "expectedPods": 1},
    }  # fmt: skip


def test_drain_waits_for_budgets(installed: Operated) -> None:
    installed.api.put(budget(0))
    installed.steps = [lambda: None, lambda: installed.api.put(budget(1))]
    code, output = installed.run("drain", "node-1")
    assert code == 0, output
    assert "held back: The disruption budget gpu needs 1 healthy pods" in output


def test_drain_gives_up_in_time(installed: Operated) -> None:
    installed.api.put(budget(0))
    code, output = installed.run("drain", "node-1", "--timeout", "20")
    assert code == 3
    assert "worker-1 held back" in output
    assert installed.run("drain", "none")[0] == 1


# upgrade and rollback


def start_second_cluster(platform: Operated) -> None:
    status = made.ready_status(1)
    status["pendingServiceStatus"] = {
        "rayClusterName": "galerne-b", "applicationStatuses": made.statuses("DEPLOYING"),
    }  # fmt: skip
    platform.set_status(status)


def fail_second_cluster(platform: Operated) -> None:
    status = made.ready_status(1)
    failed = made.statuses("DEPLOY_FAILED", "CUDA is too old")
    status["pendingServiceStatus"] = {
        "rayClusterName": "galerne-b", "applicationStatuses": failed
    }  # fmt: skip
    platform.set_status(status)


def image_of(value: dict[str, Any]) -> str:
    head = value["spec"]["rayClusterConfig"]["headGroupSpec"]
    return str(head["template"]["spec"]["containers"][0]["image"])


def test_an_upgrade_waits_until_the_new_version_stays_ready(
    installed: Operated, tmp_path: Path
) -> None:
    file = written(tmp_path, made.service(image="galerne:2"))
    installed.steps = [
        lambda: start_second_cluster(installed),
        lambda: None,
        lambda: installed.set_status(made.ready_status(1, cluster="galerne-b")),
    ]
    code, output = installed.run("upgrade", file, "--force")
    assert code == 0, output
    assert "a new cluster" in output or "deploying" in output
    assert image_of(installed.service) == "galerne:2"
    assert installed.now_s >= 10
    installed.steps = [lambda: installed.set_status(made.ready_status(1))]
    code, output = installed.run("rollback")
    assert code == 0, output
    assert image_of(installed.service) == "galerne:1"


def test_an_upgrade_that_fails_is_taken_back_with_the_reason(
    installed: Operated, tmp_path: Path
) -> None:
    installed.always = installed.serve_once_back
    file = written(tmp_path, made.service(image="galerne:2"))
    installed.steps = [
        lambda: start_second_cluster(installed), lambda: fail_second_cluster(installed)
    ]  # fmt: skip
    code, output = installed.run("upgrade", file, "--force")
    assert code == 1
    assert f"taken back: application engine:{MODEL}: CUDA is too old" in output
    assert image_of(installed.service) == "galerne:1"


def test_an_upgrade_that_takes_too_long_is_taken_back(installed: Operated, tmp_path: Path) -> None:
    installed.always = installed.serve_once_back
    file = written(tmp_path, made.service(image="galerne:2"))
    installed.steps = [lambda: start_second_cluster(installed)]
    code, output = installed.run("upgrade", file, "--force", "--timeout", "30")
    assert code == 1
    assert "taken back: not ready within 30 s" in output
    assert image_of(installed.service) == "galerne:1"


def test_an_upgrade_that_the_operator_refuses_is_taken_back_soon(
    installed: Operated, tmp_path: Path
) -> None:
    def refuse() -> None:
        value = copy.deepcopy(installed.service)
        refused = made.condition("Ready", "False", "ValidationFailed", "no such strategy")
        value["status"]["conditions"] = [refused]
        installed.api.put(value)

    file = written(tmp_path, made.service(image="galerne:2"))
    installed.steps, installed.always = [refuse], installed.serve_once_back
    code, output = installed.run("upgrade", file, "--force")
    assert code == 1
    assert "was taken back: ValidationFailed: no such strategy" in output
    assert installed.now_s < 60


def test_what_serves_while_an_upgrade_is_taken_back_is_told(
    installed: Operated, tmp_path: Path
) -> None:
    file = written(tmp_path, made.service(image="galerne:2"))
    third = made.ready_status(1, cluster="galerne-b")
    third["pendingServiceStatus"] = {
        "rayClusterName": "galerne-c", "applicationStatuses": made.statuses("DEPLOYING"),
    }  # fmt: skip

    def build_a_third_cluster() -> None:
        if image_of(installed.service) == "galerne:1":
            installed.set_status(third)
            installed.always = None

    switched = made.ready_status(1, cluster="galerne-b", state="DEPLOY_FAILED")
    installed.steps = [lambda: installed.set_status(switched)]
    installed.always = build_a_third_cluster
    code, output = installed.run("upgrade", file, "--force", "--timeout", "60")
    assert code == 1
    assert f"is being taken back: application engine:{MODEL}" in output
    assert "cluster galerne-b serves until then (not ready within 60 s" in output
    assert "galerne k8s wait" in output
    assert "was taken back" not in output
    assert "deploying; cluster galerne-b serves until then" in output
    assert image_of(installed.service) == "galerne:1"


def test_all_of_the_settings_config_map_comes_back(installed: Operated, tmp_path: Path) -> None:
    before = made.config_map(made.settings())
    before["data"]["weights.json"] = "of version 1"
    installed.api.put(before)
    after = copy.deepcopy(before)
    after["data"] |= {"weights.json": "of version 2", "more.json": "{}"}
    file = written(tmp_path, after, made.service(image="galerne:2"))
    installed.steps = [lambda: fail_second_cluster(installed)]
    installed.always = installed.serve_once_back
    assert "was taken back" in installed.run("upgrade", file, "--force")[1]
    found = installed.api.get("v1", "ConfigMap", "galerne-settings", NAMESPACE)
    assert found["data"] == before["data"]


def test_a_later_apply_removes_what_was_put_back(installed: Operated, tmp_path: Path) -> None:
    first, second = made.service(), made.service(image="galerne:2")
    first["spec"]["excludeHeadPodFromServeSvc"] = True
    second["spec"]["rayClusterDeletionDelaySeconds"] = 600
    file = written(tmp_path, first)
    assert installed.run("apply", file, "--force")[0] == 0
    installed.set_status(made.ready_status(1))
    installed.always = installed.serve_once_back
    installed.steps = [lambda: fail_second_cluster(installed)]
    assert "was taken back" in installed.run("upgrade", written(tmp_path, second), "--force")[1]
    assert "rayClusterDeletionDelaySeconds" not in installed.service["spec"]
    assert installed.service["spec"]["excludeHeadPodFromServeSvc"] is True
    assert installed.run("apply", written(tmp_path, made.service()))[0] == 0
    assert "excludeHeadPodFromServeSvc" not in installed.service["spec"]


def test_fields_that_others_add_meanwhile_go_too(installed: Operated, tmp_path: Path) -> None:
    installed.steps = [lambda: installed.set_status(made.ready_status(1, cluster="galerne-b"))]
    file = written(tmp_path, made.service(image="galerne:2"))
    assert installed.run("upgrade", file, "--force")[0] == 0
    added = installed.service
    added["spec"] |= {"rayClusterDeletionDelaySeconds": 600}
    installed.api.put(added)
    installed.always = installed.serve_once_back
    assert installed.run("rollback")[0] == 0
    assert installed.service["spec"] == made.service()["spec"]


def test_an_upgrade_begun_again_keeps_the_way_back(installed: Operated, tmp_path: Path) -> None:
    file = written(tmp_path, made.service(image="galerne:2"))

    def interrupt() -> None:
        raise KeyboardInterrupt

    installed.steps = [lambda: fail_second_cluster(installed), interrupt]
    installed.run("upgrade", file, "--force")
    assert image_of(installed.service) == "galerne:2"
    # As it was, and then changed again: what does not come up is nothing to go back to.
    installed.steps = [interrupt]
    installed.run("upgrade", file, "--force")
    file = written(tmp_path, made.service(image="galerne:3"))
    installed.steps = [lambda: fail_second_cluster(installed)]
    installed.always = installed.serve_once_back
    words = ("upgrade", file, "--force", "--skip-surge-check")
    assert "was taken back" in installed.run(*words)[1]
    assert image_of(installed.service) == "galerne:1"


def test_the_same_upgrade_again_keeps_the_way_back(installed: Operated, tmp_path: Path) -> None:
    file = written(tmp_path, made.service(image="galerne:2"))
    installed.steps = [lambda: installed.set_status(made.ready_status(1, cluster="galerne-b"))]
    assert installed.run("upgrade", file, "--force")[0] == 0
    assert installed.run("upgrade", file, "--force")[0] == 0
    installed.always = installed.serve_once_back
    assert installed.run("rollback")[0] == 0
    assert image_of(installed.service) == "galerne:1"
    installed.always = lambda: installed.serve_once_back("galerne:2")
    assert installed.run("rollback")[0] == 0
    assert image_of(installed.service) == "galerne:2"


def test_a_rollback_that_was_interrupted_goes_on(installed: Operated, tmp_path: Path) -> None:
    file = written(tmp_path, made.service(image="galerne:2"))
    installed.steps = [lambda: installed.set_status(made.ready_status(1, cluster="galerne-b"))]
    assert installed.run("upgrade", file, "--force")[0] == 0
    assert installed.run("rollback", "--timeout", "10")[0] == 3
    installed.always = installed.serve_once_back
    assert installed.run("rollback")[0] == 0
    assert image_of(installed.service) == "galerne:1"


def test_a_half_applied_upgrade_is_taken_back(platform: Operated, tmp_path: Path) -> None:
    platform.install()
    tree = made.settings()
    tree["models"][MODEL]["engine"]["max_model_len"] = 4096
    file = written(tmp_path, made.config_map(tree), made.service(image="galerne:2"))
    original = platform.api.faults.next_for

    def refused_once_applied(verb: str, path: str) -> Any:
        applied = [x for x in platform.api.log if x.startswith("patch") and "galerne-set" in x]
        if verb == "patch" and "rayservices" in path and len(applied) > 1:
            return Fault.FORBIDDEN, None
        return original(verb, path)

    platform.api.faults.next_for = refused_once_applied  # type: ignore[method-assign]
    code, output = platform.run("upgrade", file, "--force")
    assert code == 1
    assert "RayService galerne was not applied" in output
    assert "taken back" in output
    assert platform.settings == made.settings()


def test_an_upgrade_that_does_not_fit_changes_nothing(installed: Operated, tmp_path: Path) -> None:
    installed.api.put(made.node(gpus=1))
    file = written(tmp_path, made.service(image="galerne:2"))
    code, output = installed.run("upgrade", file, "--force")
    assert code == 1
    assert "needs 1 GPUs beside those of the old one, 0 are free; no node for gpu (1 GPU)" in output
    assert image_of(installed.service) == "galerne:1"
    # What is made in place needs no room.
    installed.steps = [lambda: installed.set_status(made.ready_status(1))]
    in_place = written(tmp_path, made.service(most=5))
    code, output = installed.run("upgrade", in_place, "--force")
    assert code == 0, output


def test_an_upgrade_that_a_quota_forbids_changes_nothing(
    installed: Operated, tmp_path: Path
) -> None:
    limit = {"requests.nvidia.com/gpu": "1"}
    quota = {
        "apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": {"name": "team", "namespace": NAMESPACE},
        "spec": {"hard": limit}, "status": {"hard": limit, "used": limit},
    }  # fmt: skip
    installed.api.put(quota)
    file = written(tmp_path, made.service(image="galerne:2"))
    code, output = installed.run("upgrade", file, "--force")
    assert code == 1
    assert "quota team: requests.nvidia.com/gpu needs 1 more, 0 of 1 is left" in output
    assert image_of(installed.service) == "galerne:1"


def test_an_upgrade_outlives_a_server_that_is_away_for_minutes(
    installed: Operated, tmp_path: Path
) -> None:
    file = written(tmp_path, made.service(image="galerne:2"))
    faults = installed.api.faults
    installed.steps = [
        lambda: start_second_cluster(installed),
        lambda: faults.order(Fault.INTERNAL_ERROR, verb="get", path="rayservices", times=60),
    ]

    def ready_once_it_is_back() -> None:
        if faults.num_left:
            installed.steps.append(ready_once_it_is_back)
        else:
            installed.set_status(made.ready_status(1, cluster="galerne-b"))

    installed.steps.append(ready_once_it_is_back)
    code, output = installed.run("upgrade", file, "--force")
    assert code == 0, output
    assert installed.now_s > 120
    assert image_of(installed.service) == "galerne:2"


def test_an_upgrade_whose_token_expires_says_what_is_left_to_do(
    installed: Operated, tmp_path: Path
) -> None:
    file = written(tmp_path, made.service(image="galerne:2"))
    installed.steps = [lambda: setattr(installed.api, "token", "renewed")]
    code, output = installed.run("upgrade", file, "--force")
    assert code == 1
    assert "the upgrade failed (the Kubernetes API does not know you" in output
    assert "galerne k8s rollback tries it again" in output
    # Logged in again, it is taken back.
    config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    config["users"][0]["user"]["token"] = "renewed"
    Path(os.environ["KUBECONFIG"]).write_text(yaml.safe_dump(config))
    installed.steps = [lambda: installed.set_status(made.ready_status(1))]
    assert installed.run("rollback")[0] == 0
    assert image_of(installed.service) == "galerne:1"


def test_golden_prompts_decide_too(installed: Operated, tmp_path: Path) -> None:
    golden = tmp_path / "golden.txt"
    golden.write_text("- {model: m, prompt: Hello, contains: hi}")
    installed.always = installed.serve_once_back
    file = written(tmp_path, made.service(image="galerne:2"))
    installed.steps = [lambda: installed.set_status(made.ready_status(1))]
    words = ("upgrade", file, "--force", "--golden", str(golden))
    code, output = installed.run(*words)
    assert code == 2
    assert "--endpoint" in output
    code, output = installed.run(*words, "--endpoint", "http://127.0.0.1:1")
    assert code == 1
    assert "taken back: golden prompt to m" in output
    assert image_of(installed.service) == "galerne:1"


def fail_in_place(platform: Operated) -> None:
    status = made.ready_status(1)
    status["activeServiceStatus"]["applicationStatuses"] = made.statuses("DEPLOY_FAILED", "no")
    platform.set_status(status)


def test_an_upgrade_may_mend_what_has_failed(installed: Operated, tmp_path: Path) -> None:
    fail_in_place(installed)
    file = written(tmp_path, made.service(most=5))
    # The operator sees the change with the old statuses, and only then submits it.
    installed.steps = [
        lambda: fail_in_place(installed),
        lambda: installed.set_status(made.ready_status(1, state="DEPLOYING")),
        lambda: installed.set_status(made.ready_status(1)),
    ]
    code, output = installed.run("upgrade", file, "--force")
    assert code == 0, output


def test_a_rollback_mends_what_has_failed_and_is_not_over_too_early(
    installed: Operated, tmp_path: Path
) -> None:
    installed.steps = [lambda: installed.set_status(made.ready_status(1))]
    file = written(tmp_path, made.service(most=5))
    assert installed.run("upgrade", file, "--force")[0] == 0
    fail_in_place(installed)
    begun_s = installed.now_s
    installed.steps = [
        lambda: fail_in_place(installed),
        lambda: installed.set_status(made.ready_status(1)),
        lambda: installed.set_status(made.ready_status(1, state="DEPLOYING")),
        lambda: installed.set_status(made.ready_status(1)),
    ]
    code, output = installed.run("rollback")
    assert code == 0, output
    assert installed.now_s - begun_s >= 18


def test_there_is_nothing_to_go_back_to(installed: Operated) -> None:
    code, output = installed.run("rollback")
    assert code == 2
    assert "no earlier version is kept" in output


# keys


def records(platform: Operated) -> Any:
    found = platform.api.get("v1", "Secret", "galerne-secrets", NAMESPACE)
    return decode(base64.b64decode(found["data"]["keys.json"]))


def test_keys_live_in_the_secret(installed: Operated) -> None:
    created = installed.run_json("keys", "create", "ci")
    assert created["key"].startswith("gal_")
    installed.api.faults.order(Fault.CONFLICT, verb="update", times=3)
    installed.run_json("keys", "create", "ann")
    assert [each["name"] for each in installed.run_json("keys", "list")] == ["ci", "ann"]
    assert installed.run("keys", "revoke", "ci")[0] == 0
    assert [each.state(utc_now()) for each in records(installed)] == [
        KeyState.REVOKED, KeyState.ACTIVE
    ]  # fmt: skip
    code, output = installed.run("keys", "create", "ann")
    assert code == 2
    assert "already named" in output


def test_kubelets_are_asked_to_bring_a_changed_key_at_once(installed: Operated) -> None:
    def annotations(pod: str) -> Any:
        metadata = installed.api.get("v1", "Pod", pod, NAMESPACE)["metadata"]
        return metadata.get("annotations", {})

    installed.run_json("keys", "create", "ci")
    first = annotations("worker-1")["galerne/keys-changed-at"]
    assert annotations("head") == {}
    installed.api.faults.order(Fault.FORBIDDEN, verb="patch", path="pods")
    code, output = installed.run("keys", "revoke", "ci")
    assert code == 0
    assert "within a minute and a half" in output
    assert annotations("worker-1")["galerne/keys-changed-at"] == first


def test_keys_need_the_secret(installed: Operated) -> None:
    installed.api.delete("v1", "Secret", "galerne-secrets", NAMESPACE)
    code, output = installed.run("keys", "create", "ci")
    assert code == 2
    assert "no Secret 'galerne-secrets'" in output


def test_every_command_has_the_shared_options_and_tells_its_exit_status(
    platform: Operated,
) -> None:
    for command in ("status", "wait", "apply", "scale", "doctor", "drain", "upgrade", "rollback"):
        text = platform.run(command, "--help")[1]
        assert "3 timed out" in text
        for option in ("--namespace", "--context", "--name", "--json", "--timeout"):
            assert option in text, (command, option)
