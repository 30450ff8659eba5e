"""`galerne k8s` on the manifests that the repository brings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kube_platform as made
import pytest
import yaml
from kube_api.server import running_kube_api
from kube_platform import Operated

MANIFESTS = Path(__file__).parents[2] / "k8s" / "manifests"
NAMESPACE = "galerne"


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operated]:
    with running_kube_api(namespaces=("default", NAMESPACE)) as api:
        file = api.write_kubeconfig(tmp_path / "config", namespace=NAMESPACE)
        monkeypatch.setenv("KUBECONFIG", str(file))
        api.put(made.operator())
        api.put(made.node(gpus=8))
        yield Operated(api)


def put_secrets(platform: Operated) -> None:
    ours = made.secret("internal-token", "metrics-token", "keys.json")
    for name, secret in (("galerne-secrets", ours), ("huggingface", made.secret("token"))):
        secret["metadata"] = {"name": name, "namespace": NAMESPACE}
        platform.api.put(secret)


def service_of(platform: Operated) -> dict[str, Any]:
    return platform.api.get("ray.io/v1", "RayService", "galerne", NAMESPACE)


def start_cluster(platform: Operated) -> None:
    """What the operator does: a RayCluster of the service's specification, and a status."""
    service = service_of(platform)
    cluster = made.cluster()
    cluster["metadata"]["namespace"] = NAMESPACE
    cluster["spec"] = service["spec"]["rayClusterConfig"]
    platform.api.put(cluster)
    names = [a["name"] for a in yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]]
    status = made.ready_status(service["metadata"]["generation"])
    status["activeServiceStatus"]["applicationStatuses"] = {n: {"status": "RUNNING"} for n in names}
    platform.api.put({**service, "status": status})


@pytest.fixture(params=["laptop-cpu.yaml", "single-gpu.yaml"])
def file(request: pytest.FixtureRequest) -> Path:
    return MANIFESTS / str(request.param)


def test_they_need_their_secret(platform: Operated, file: Path) -> None:
    code, output = platform.run("apply", str(file))
    assert code == 2
    assert "there is no Secret 'galerne-secrets'" in output
    assert not any(line.startswith("patch") for line in platform.api.log)


def test_they_are_applied_scaled_and_applied_again(platform: Operated, file: Path) -> None:
    put_secrets(platform)
    code, output = platform.run("apply", str(file))
    assert code == 0, output
    start_cluster(platform)
    # What the server filled in is no difference.
    assert {each["action"] for each in platform.run_json("apply", str(file))["objects"]} == {"keep"}
    assert platform.run("status")[0] == 0
    found = platform.run_json("doctor")["findings"]
    assert [each["code"] for each in found] == ["not_scraped"]

    text = platform.api.get("v1", "ConfigMap", "galerne-settings", NAMESPACE)["data"]
    ((model, part),) = json.loads(text["settings.json"])["models"].items()
    is_scaled = part.get("scaling") is not None
    words = ("--min", "1", "--max", "3") if is_scaled else ("--replicas", "3")
    code, output = platform.run("scale", model, *words)
    assert code == 0, output
    start_cluster(platform)
    assert "bounds_too_low" not in [
        each["code"] for each in platform.run_json("doctor")["findings"]
    ]

    # What our own commands wrote is no conflict, and no reason to build a cluster.
    rows = {each["kind"]: each for each in platform.run_json("apply", str(file))["objects"]}
    assert rows["RayService"]["effect"] == "in place"


def test_another_image_is_a_new_cluster(platform: Operated, file: Path, tmp_path: Path) -> None:
    put_secrets(platform)
    platform.run("apply", str(file))
    start_cluster(platform)
    other = tmp_path / "other.yaml"
    other.write_text(file.read_text().replace("image: ", "image: another."))
    rows = {
        each["kind"]: each
        for each in platform.run_json("apply", str(other), "--dry-run")["objects"]
    }
    strategy = (service_of(platform)["spec"].get("upgradeStrategy") or {}).get("type")
    ignored = strategy == "None"
    assert rows["RayService"]["effect"].startswith("ignored" if ignored else "new cluster")
    code, output = platform.run("upgrade", str(other), "--timeout", "30")
    assert code == (2 if ignored else 1)
    assert ("operator would ignore" if ignored else "taken back: not ready") in output
    assert rows["ConfigMap"]["action"] == "keep"
