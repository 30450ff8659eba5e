"""Each complaint of the doctor: when it is made, and when it is not."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import kube_platform as made
import pytest
from kube_platform import MODEL

from serving.operations.findings import diagnose
from serving.operations.survey import Finding, Severity, Survey

NOW = datetime(2030, 1, 1, tzinfo=UTC)
URL = "http://galerne-serve-svc.default.svc:8000/galerne/metric-targets"
RAY_PODS = {"key": "ray.io/node-type", "operator": "In", "values": ["head", "worker"]}
MONITORS: tuple[dict[str, Any], ...] = (
    {
        "kind": "PodMonitor",
        "metadata": {"name": "galerne-ray"},
        "spec": {"selector": {"matchExpressions": [RAY_PODS]}},
    },
    {
        "kind": "ScrapeConfig",
        "metadata": {"name": "any"},
        "spec": {"httpSDConfigs": [{"url": URL}]},
    },
)
KEYS = frozenset({"internal-token", "metrics-token", "keys.json"})


def survey(*pods: Any, service: Any = None, cluster: Any = None, **changed: Any) -> Survey:
    """A platform on which nothing is wrong, but for what is given."""
    snapshot = made.snapshot(
        service or made.service(), clusters=(cluster or made.cluster(),), pods=pods
    )
    whole = Survey(
        snapshot=snapshot,
        definitions={"rayservices.ray.io": {}, "rayclusters.ray.io": {}},
        operators=(made.operator(),),
        settings=made.settings(min_replicas=1, max_replicas=2),
        secret_name="galerne-secrets",
        secret_keys=KEYS,
        monitors=MONITORS,
        server_time=NOW,
        read_at=NOW,
    )
    return dataclasses.replace(whole, **changed)


def codes(found: Survey) -> list[str]:
    return [each.code for each in diagnose(found)]


def only(found: Survey) -> Finding:
    (finding,) = diagnose(found)
    assert finding.why
    assert finding.mend
    return finding


def event(pod: str, reason: str, message: str = "") -> dict[str, Any]:
    return {"reason": reason, "message": message, "involvedObject": {"name": pod}}


def test_nothing_is_wrong_with_a_platform_that_runs() -> None:
    assert codes(survey(made.pod("w"))) == []


def test_a_pod_without_a_node() -> None:
    pod = made.pod("w", node="", **made.unschedulable("1 Insufficient nvidia.com/gpu"))
    finding = only(survey(pod, events=[event("w", "NotTriggerScaleUp")]))
    assert finding.what == "pod w (1 GPU) has no node"
    assert "Insufficient" in finding.why
    assert "no node pool would help" in finding.why


def test_an_image_that_is_not_to_be_had() -> None:
    finding = only(survey(made.pod("w", **made.waiting("ImagePullBackOff", "unauthorized"))))
    assert (finding.code, finding.why) == ("image_not_pulled", "ImagePullBackOff: unauthorized")


def test_a_container_that_ends_again_and_again() -> None:
    pod = made.pod("w", **made.waiting("CrashLoopBackOff", "back-off", restarts=7))
    assert "7 restarts" in only(survey(pod)).what


def test_a_container_that_ended_for_good() -> None:
    state = {"terminated": {"exitCode": 1, "reason": "Error"}}
    container = {"name": "fetch-weights", "restartCount": 0, "state": state}
    finding = only(survey(made.pod("w", phase="Failed", initContainerStatuses=[container])))
    assert finding.code == "container_fails"
    assert "fetch-weights ended with exit code 1" in finding.why
    assert finding.mend == "kubectl logs w -c fetch-weights says why"


def test_a_probe_that_fails() -> None:
    not_ready = {"phase": "Running", "conditions": [made.condition("Ready", "False")]}
    message = "Readiness probe failed: bash: line 1: wget: command not found"
    found = survey(made.pod("w", **not_ready), events=[event("w", "Unhealthy", message)])
    assert "needs wget" in only(found).mend
    assert codes(survey(made.pod("w"), events=[event("w", "Unhealthy", message)])) == []


def test_a_worker_without_replicas_is_never_ready_and_that_is_normal() -> None:
    not_ready = {"phase": "Running", "conditions": [made.condition("Ready", "False")]}
    events = [event("w", "Unhealthy", "localhost:8000/-/healthz: failed")]
    idle = made.pod("w", **not_ready)
    assert codes(survey(idle, events=events)) == []
    starting = made.service() | {"status": made.ready_status(1, state="DEPLOYING")}
    finding = only(survey(idle, service=starting, events=events))
    assert (finding.code, finding.severity) == ("probe_fails", Severity.WARNING)
    head = made.pod("w", group="head", **not_ready)
    assert only(survey(head, events=events)).severity is Severity.ERROR


def test_the_newest_event_says_why() -> None:
    not_ready = {"phase": "Running", "conditions": [made.condition("Ready", "False")]}
    events = [
        event("w", "Unhealthy", text) | {"lastTimestamp": f"2026-01-01T00:00:0{second}Z"}
        for second, text in ((2, "newest"), (1, "old"))
    ]
    pod = made.pod("w", group="head", **not_ready)
    assert only(survey(pod, events=events)).why == "newest"


def with_shm(size: str | None, *, medium: str = "Memory") -> dict[str, Any]:
    service = made.service(gpus=4)
    spec = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
    spec["containers"][0]["volumeMounts"] = [{"name": "shm", "mountPath": "/dev/shm"}]
    empty = {"medium": medium} | ({"sizeLimit": size} if size else {})
    spec["volumes"] = [{"name": "shm", "emptyDir": empty}]
    return service


def test_shared_memory_that_is_too_small() -> None:
    finding = only(survey(service=with_shm("64Mi")))
    assert finding.severity is Severity.WARNING
    assert finding.what == "worker group gpu has 64Mi of /dev/shm for 4 GPUs"
    assert codes(survey(service=with_shm(None, medium=""))) == ["shm_small"]
    for enough in (with_shm("8Gi"), with_shm(None), made.service(gpus=4)):
        assert codes(survey(service=enough)) == []


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"definitions": {"rayclusters.ray.io": None}}, "crd_missing"),
        ({"operators": ()}, "operator_missing"),
        ({"operators": (made.operator() | {"status": {}},)}, "operator_missing"),
        ({"operators": (made.operator("1.4.2"),)}, "operator_old"),
        ({"secret_keys": None}, "secret_missing"),
        ({"missing_secrets": frozenset({"gcs"})}, "secret_missing"),
        ({"settings": None}, "settings_missing"),
        ({"secret_keys": KEYS - {"keys.json"}}, "secret_missing"),
        ({"monitors": None}, "not_scraped"),
        ({"monitors": MONITORS[:1]}, "not_scraped"),
    ],
)
def test_parts_that_are_missing(changed: dict[str, Any], code: str) -> None:
    assert codes(survey(**changed)) == [code]


def test_monitors_of_others_do_not_count() -> None:
    other: dict[str, Any] = {
        "kind": "PodMonitor",
        "metadata": {"name": "x"},
        "spec": {"selector": {"matchLabels": {"app": "x"}}},
    }
    assert codes(survey(made.pod("w"), monitors=(other, MONITORS[1]))) == ["not_scraped"]
    config = {"kind": "ScrapeConfig", "metadata": {"name": "x"}, "spec": {}}
    assert codes(survey(made.pod("w"), monitors=(MONITORS[0], config))) == ["not_scraped"]
    assert codes(survey(made.pod("w"), monitors=MONITORS)) == []


def test_what_may_not_be_read_is_not_missing() -> None:
    unread = frozenset({"secrets", "monitors"})
    assert codes(survey(secret_keys=None, monitors=None, operators=None, unread=unread)) == []


def test_a_definition_of_an_old_release() -> None:
    schema: Any = {"properties": {"spec": {"properties": {"rayClusterConfig": {"properties": {}}}}}}
    version = {"name": "v1", "schema": {"openAPIV3Schema": schema}}
    found = survey(definitions={"rayservices.ray.io": {"spec": {"versions": [version]}}})
    assert only(found).code == "crd_old"
    config = schema["properties"]["spec"]["properties"]["rayClusterConfig"]
    config["properties"]["authOptions"] = {}
    assert codes(found) == []


def test_there_is_no_platform() -> None:
    assert codes(survey(snapshot=made.snapshot())) == ["service_missing"]
    assert codes(survey(snapshot=made.snapshot(), settings=None)) == ["service_missing"]
    nowhere = survey(snapshot=made.snapshot(), settings=None, has_namespace=False)
    assert codes(nowhere) == ["namespace_missing"]
    hidden = survey(snapshot=made.snapshot(), unread=frozenset({"platform"}))
    assert codes(hidden) == []


def test_bounds_that_were_not_passed_on() -> None:
    finding = only(survey(service=made.service(most=5)))
    assert finding.what == (
        "worker group gpu: maxReplicas is 5 in the RayService and 2 in RayCluster galerne-a"
    )


def test_bounds_that_leave_replicas_without_room() -> None:
    finding = only(survey(settings=made.settings(min_replicas=1, max_replicas=9)))
    assert finding.code == "bounds_too_low"
    assert f"scale {MODEL} --max" in finding.mend


def test_a_pool_that_no_group_is() -> None:
    tree = made.settings()
    tree["models"][MODEL]["resources"]["pool"] = "h100"
    assert only(survey(settings=tree)).what == "there is no worker group 'h100'"


def target(component: str, *, host: str = "10.0.0.7", **said: Any) -> dict[str, Any]:
    labels = {"component": component, "replica": "a1", "deployed_model": MODEL}
    return {"discoveredLabels": {"__address__": f"{host}:4711", **labels}, "labels": labels,
            "health": "up", "lastError": "", **said}  # fmt: skip


def scraped(*targets: dict[str, Any]) -> Survey:
    """A platform of one pod, of which Prometheus scrapes this. Monitors are not looked at."""
    pod = made.pod("w")
    pod["status"]["podIP"] = "10.0.0.7"
    return survey(pod, monitors=None, targets=targets)


def test_what_prometheus_scrapes_by_its_own_word() -> None:
    gateway, engine = target("gateway"), target("engine")
    assert codes(scraped(gateway, engine)) == []
    assert "no engine of the platform" in only(scraped(gateway)).what
    elsewhere = target("engine", host="10.0.0.8")
    ray_of_ours = {"discoveredLabels": {"__address__": "10.0.0.7:8080"}, "health": "down"}
    assert "no engine and no gateway" in only(scraped(elsewhere, ray_of_ours)).what


def test_a_target_that_cannot_be_scraped() -> None:
    down = target("engine", health="down", lastError="server returned HTTP status 401")
    finding = only(scraped(target("gateway"), down))
    assert (finding.code, finding.why) == ("scrape_fails", "server returned HTTP status 401")
    assert finding.what == "Prometheus cannot scrape engine a1"
    assert codes(scraped(target("gateway"), target("engine", health="unknown"))) == []


def test_a_model_that_may_sleep_need_not_be_scraped() -> None:
    tree = made.settings(min_replicas=0, max_replicas=2)
    found = dataclasses.replace(scraped(target("gateway")), settings=tree)
    assert "not_scraped" not in codes(found)


def lease(node: str, renewed: datetime) -> dict[str, Any]:
    return {"metadata": {"name": node}, "spec": {"renewTime": renewed.isoformat()}}


@pytest.mark.parametrize(
    ("off_s", "code"), [(0, None), (-20, None), (60, "node_clock_skew"), (-90, "node_silent")]
)
def test_clocks_of_nodes(off_s: int, code: str | None) -> None:
    leases = [lease("node-1", NOW + timedelta(seconds=off_s)), lease("other", NOW - timedelta(9))]
    assert codes(survey(made.pod("w"), leases=leases)) == ([code] if code else [])


def test_the_clock_of_this_machine() -> None:
    # The server's clock is read in whole seconds.
    assert "29 s ahead of" in only(survey(read_at=NOW + timedelta(seconds=30))).what
    assert "30 s behind" in only(survey(read_at=NOW - timedelta(seconds=30))).what
    assert codes(survey(read_at=NOW + timedelta(seconds=3))) == []


def test_errors_come_before_warnings() -> None:
    pod = made.pod("w", node="", **made.unschedulable())
    assert codes(survey(pod, monitors=None)) == ["pod_unschedulable", "not_scraped"]
