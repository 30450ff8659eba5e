"""The Jobs that generate load inside of a cluster: valid, closed, and their commands work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_chart import ROOT, defaults
from typer.testing import CliRunner

from loadtest.engines import Timing, engine
from loadtest.verdict.slo import read_slo
from loadtest.workload.spec import read_workload
from serving.cli.main import app

FOLDER = ROOT / "k8s" / "loadtest"
FILES = sorted(FOLDER.glob("*.yaml"))
JOBS = [FOLDER / "job.yaml", FOLDER / "workers.yaml"]
KUBERNETES = "1.33"


def objects(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def job(path: Path) -> dict[str, Any]:
    (found,) = (each for each in objects(path) if each["kind"] == "Job")
    return found


def container(path: Path) -> dict[str, Any]:
    (found,) = job(path)["spec"]["template"]["spec"]["containers"]
    return found  # type: ignore[no-any-return]


def documents(folder: Path, *, duration_s: float | None = None) -> tuple[Path, Path]:
    """The Job's workload and SLO as files, the workload perhaps shorter."""
    (found,) = (each for each in objects(FOLDER / "job.yaml") if each["kind"] == "ConfigMap")
    workload = yaml.safe_load(found["data"]["workload.yaml"])
    if duration_s is not None:
        workload["duration_s"] = duration_s
    (folder / "workload.yaml").write_text(yaml.safe_dump(workload))
    (folder / "slo.yaml").write_text(found["data"]["slo.yaml"])
    return folder / "workload.yaml", folder / "slo.yaml"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_kubernetes_knows_every_field_of_a_load_test(path: Path) -> None:
    validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed"
    )
    for each in objects(path):
        validate.validate(each, KUBERNETES, strict=True)
        assert each["metadata"]["namespace"] == "galerne"


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_its_pods_may_do_nothing_else(path: Path) -> None:
    pod = job(path)["spec"]["template"]["spec"]
    closed = container(path)["securityContext"]

    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert closed["readOnlyRootFilesystem"] is True
    assert closed["allowPrivilegeEscalation"] is False
    assert closed["capabilities"] == {"drop": ["ALL"]}
    assert job(path)["spec"]["backoffLimit"] == 0


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_keys_come_from_secrets(path: Path) -> None:
    for variable in container(path)["env"]:
        if variable["name"] in ("GALERNE_API_KEY", "GALERNE_LOAD_TOKEN"):
            assert "secretKeyRef" in variable["valueFrom"]
    assert not any("key" in word for word in container(path)["args"])


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_it_runs_the_platforms_image(path: Path) -> None:
    image = defaults()["image"]
    assert container(path)["image"] == f"{image['repository']}:{image['tag']}"


def test_its_documents_are_what_the_load_test_reads(tmp_path: Path) -> None:
    workload, slo = documents(tmp_path)

    assert read_workload(workload).planned_s() == 300
    assert read_slo(slo).request is not None


def test_the_jobs_command_ends_in_a_verdict(tmp_path: Path) -> None:
    """As the Job's container would run it, for two seconds, against a simulated engine."""
    workload, slo = documents(tmp_path, duration_s=2)
    with engine("sim", Timing(overhead_s=0.01, interval_s=0.005)) as server:
        ours = {
            "--url": server.url, "--workload": workload, "--slo": slo, "--out": tmp_path / "out",
        }  # fmt: skip
        name, *words = (
            f"{option}={ours[option]}" if (option := word.partition("=")[0]) in ours else word
            for word in container(FOLDER / "job.yaml")["args"]
        )
        done = CliRunner().invoke(app, words)

    assert name == "galerne"
    assert done.exit_code in (0, 4), done.output  # 4: this machine was too busy to say
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["completed"] == line["requests"] > 0
    assert (tmp_path / "out" / "report.html").exists()


def test_workers_ask_the_coordinators_service() -> None:
    found = {each["kind"]: each for each in objects(FOLDER / "workers.yaml")}
    (port,) = found["Service"]["spec"]["ports"]
    address = f"http://{found['Service']['metadata']['name']}:{port['port']}"
    _, *words = container(FOLDER / "workers.yaml")["args"]

    assert words[-1] == f"--join={address}"
    done = CliRunner().invoke(app, words, env={"GALERNE_LOAD_TOKEN": ""})
    assert "GALERNE_LOAD_TOKEN is not set" in str(done.exception)
    selector = found["Service"]["spec"]["selector"]
    assert selector == {
        "batch.kubernetes.io/job-name": job(FOLDER / "job.yaml")["metadata"]["name"]
    }
