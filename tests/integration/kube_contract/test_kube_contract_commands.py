"""`galerne k8s` on a server with KubeRay's kinds, whether or not its operator acts on them."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kube_platform as made
import pytest
import yaml
from kube_platform import MODEL
from typer.testing import CliRunner

from serving.adapters.kube.client import KubeClient
from serving.adapters.kube.failures import KindMissing
from serving.adapters.kube.resources import CONFIG_MAPS, RAY_SERVICES, SECRETS
from serving.cli.console import report
from serving.cli.k8s import app
from serving.errors import ServingError

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def platform(
    kubeconfig: Path, client: KubeClient, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The name of a platform that may be made: its Secret is there, and KubeRay's kinds are."""
    try:
        client.resource_for("ray.io/v1", "RayService")
    except KindMissing:
        pytest.skip("this server has no RayService: KubeRay's CRDs are not installed")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    name = f"galerne-{secrets.token_hex(2)}"
    keys = base64.b64encode(json.dumps({"version": 1, "keys": []}).encode()).decode()
    value = made.secret() | {"data": {"keys.json": keys, "internal-token": keys}}
    value["metadata"] = {"name": "galerne-secrets"}
    client.create(SECRETS, value, namespace=namespace)
    return name


@pytest.fixture
def run(platform: str, namespace: str) -> Run:
    def run(command: str, *words: str) -> tuple[int, str]:
        """Exit status, and what is said on stdout or as the error."""
        options = ("--namespace", namespace, "--name", platform)
        result = CliRunner().invoke(app, [command, *words, *options])
        if isinstance(result.exception, ServingError):
            return report(result.exception), result.exception.message
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.exit_code, result.stdout

    return run


@pytest.fixture
def file(platform: str, tmp_path: Path) -> Path:
    """Settings and RayService of the platform, as a person would write them."""
    settings = made.config_map(made.settings()) | {"metadata": {"name": f"{platform}-settings"}}
    service = made.service() | {"metadata": {"name": platform}}
    del service["status"]
    path = tmp_path / "platform.yaml"
    path.write_text(yaml.safe_dump_all([settings, service]))
    return path


def rows(output: str) -> dict[str, Any]:
    return {each["kind"]: each for each in json.loads(output)["objects"]}


def test_it_is_applied_once(
    run: Run, file: Path, client: KubeClient, platform: str, namespace: str
) -> None:
    code, output = run("apply", str(file), "--dry-run", "--json")
    assert code == 0, output
    assert {each["action"] for each in rows(output).values()} == {"create"}
    assert client.find(RAY_SERVICES, platform, namespace=namespace) is None
    assert run("apply", str(file))[0] == 0
    code, output = run("apply", str(file), "--json")
    assert code == 0, output
    # What the server, KubeRay's schema and its operator fill in is no difference.
    assert {each["action"] for each in rows(output).values()} == {"keep"}


def test_a_missing_secret_is_told_before_anything_is_changed(
    run: Run, file: Path, client: KubeClient, platform: str, namespace: str
) -> None:
    client.delete(SECRETS, "galerne-secrets", namespace=namespace)
    code, output = run("apply", str(file))
    assert (code, "nothing was changed" in output) == (2, True)
    assert client.find(CONFIG_MAPS, f"{platform}-settings", namespace=namespace) is None


def test_what_is_not_ready_is_told(run: Run, file: Path) -> None:
    code, output = run("status")
    assert (code, "is absent" in output) == (1, True)
    assert run("apply", str(file))[0] == 0
    code, output = run("status", "--json")
    assert code == 1
    assert json.loads(output)["phase"] != "ready"
    code, output = run("wait", "--timeout", "3")
    assert code in (1, 3)  # an operator may have given it up by then
    assert output
    code, output = run("doctor", "--json")
    assert code in (0, 1)
    assert json.loads(output)["unread"] == []


def test_scaling_reaches_settings_and_service(
    run: Run, file: Path, client: KubeClient, platform: str, namespace: str
) -> None:
    assert run("apply", str(file))[0] == 0
    code, output = run("scale", MODEL, "--replicas", "3", "--json")
    assert code == 0, output
    assert f"RayService {platform}" in json.loads(output)["changed"]
    service = client.get(RAY_SERVICES, platform, namespace=namespace)
    (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert group["maxReplicas"] == 3
    # What `scale` has written is no one else's to the next apply.
    code, output = run("apply", str(file), "--json")
    assert code == 0, output
    assert rows(output)["RayService"]["effect"] == "in place"


def test_a_field_that_kuberay_does_not_know_is_refused(run: Run, file: Path) -> None:
    objects = list(yaml.safe_load_all(file.read_text()))
    objects[1]["spec"]["serveConfigV3"] = ""
    file.write_text(yaml.safe_dump_all(objects))
    code, output = run("apply", str(file))
    if code == 0:
        pytest.skip("the schemas of KubeRay's CRDs are not here")
    assert (code, "serveConfigV3" in output) == (2, True)


def test_keys_are_kept_in_the_secret(run: Run, file: Path) -> None:
    assert run("apply", str(file))[0] == 0
    code, output = run("keys", "create", "ci", "--json")
    assert code == 0, output
    code, output = run("keys", "list", "--json")
    assert [each["name"] for each in json.loads(output)] == ["ci"]
