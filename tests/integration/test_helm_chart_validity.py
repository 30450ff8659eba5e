"""What Helm renders is what Kubernetes and KubeRay take, and what a policy scanner lets pass."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_chart import (
    ROOT,
    Object,
    all_values,
    by_kind,
    defaults,
    load_yaml,
    ray_pods,
    render,
    require_crds,
    require_trivy,
)

from k8s.chart.generate import generated
from k8s.chart.schema import schema

KUBERNETES = "1.33"
CUSTOM = {
    "ray.io/v1",
    "monitoring.coreos.com/v1",
    "monitoring.coreos.com/v1alpha1",
    "gateway.networking.k8s.io/v1",
}
EVERYTHING = all_values()
MANIFESTS = {f"manifest-{path.stem}": path for path in (ROOT / "k8s" / "manifests").glob("*.yaml")}
LOAD_TESTS = sorted((ROOT / "k8s" / "loadtest").glob("*.yaml"))


def objects_of(name: str) -> list[Object]:
    """What Helm makes of values, or what is checked in; the latter needs no Helm."""
    if name in EVERYTHING:
        return render(EVERYTHING[name])
    return [each for each in yaml.safe_load_all(MANIFESTS[name].read_text()) if each]


def pods(objects: list[Object]) -> list[Object]:
    (service,) = by_kind(objects, "RayService")
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "n", **pod["metadata"]},
            "spec": pod["spec"],
        }
        for name, pod in ray_pods(service["spec"]).items()
    ]


@pytest.mark.parametrize("name", [*EVERYTHING, *MANIFESTS])
def test_kubernetes_knows_every_field(name: str) -> None:
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed"
    )
    objects = objects_of(name)
    for each in [*objects, *pods(objects)]:
        if each["apiVersion"] not in CUSTOM:
            kubernetes_validate.validate(each, KUBERNETES, strict=True)


def close(schema: Any) -> Any:
    """The schema, refusing what it does not name, as the API server drops it."""
    if isinstance(schema, list):
        return [close(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: close(value) for key, value in schema.items()}
    is_open = "additionalProperties" in schema or "x-kubernetes-preserve-unknown-fields" in schema
    if isinstance(schema.get("properties"), dict) and not is_open:
        closed["additionalProperties"] = False
    return closed


@pytest.fixture(scope="module")
def ray_service_schema() -> Object:
    document = json.loads((require_crds() / "rayservices.v1.json").read_text())
    return close(document["openAPIV3Schema"])  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", [*EVERYTHING, *MANIFESTS])
def test_kuberay_knows_every_field(name: str, ray_service_schema: Object) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    (service,) = by_kind(objects_of(name), "RayService")
    # Kubernetes adds these to every schema.
    properties = {**ray_service_schema["properties"], "metadata": {"type": "object"}}
    schema = {**ray_service_schema, "properties": properties}
    errors = jsonschema.Draft7Validator(schema).iter_errors(service)
    assert [f"{error.json_path}: {error.message}" for error in errors] == []


def test_a_misspelt_field_would_be_found(ray_service_schema: Object) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    (service,) = by_kind(render({}), "RayService")
    group = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    group["template"]["spec"]["terminationGracePeriodSecond"] = 1
    validator = jsonschema.Draft7Validator(ray_service_schema)
    assert any("terminationGracePeriodSecond" in e.message for e in validator.iter_errors(service))


def test_a_scanner_finds_nothing_that_is_not_explained(tmp_path: Path) -> None:
    """All values at once: each scan takes seconds to begin."""
    trivy = require_trivy()
    for name, values in EVERYTHING.items():
        objects = render(values)
        scanned = [each for each in objects if each["kind"] not in ("ConfigMap", "RayService")]
        scanned = [with_namespace(each) for each in [*scanned, *pods(objects)]]
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump_all(scanned))
    for path in LOAD_TESTS:
        (tmp_path / path.name).write_text(path.read_text())
    command = [trivy, "config", "--skip-check-update", "--quiet", "--format", "json", tmp_path]
    done = subprocess.run(command, capture_output=True, timeout=200, check=True)
    results = json.loads(done.stdout)["Results"]
    names = {*(f"{name}.yaml" for name in EVERYTHING), *(path.name for path in LOAD_TESTS)}
    assert {result["Target"] for result in results} == names
    found = [each for result in results for each in result.get("Misconfigurations", [])]
    failed = {each["ID"]: each for each in found if each["Status"] == "FAIL"}
    explained = load_yaml(ROOT / "k8s" / "chart" / "policy-exceptions.yaml")
    unexplained = {i: e["Message"] for i, e in failed.items() if i not in explained}
    assert unexplained == {}
    assert set(explained) == set(failed), "an exception that nothing needs"
    assert not [i for i, each in failed.items() if each["Severity"] in ("HIGH", "CRITICAL")]


def with_namespace(each: Object) -> Object:
    """As it is installed; scanners complain of the namespace `default`."""
    return {**each, "metadata": {**each["metadata"], "namespace": "n"}}


def merged(base: Any, over: Any) -> Any:
    """As Helm merges values into defaults: maps by key, all else replaced."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return {**base, **{key: merged(base.get(key), value) for key, value in over.items()}}


@pytest.mark.parametrize("name", EVERYTHING)
def test_values_fit_the_schema_without_helm_too(name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    validator = jsonschema.Draft202012Validator(schema())
    values = merged(defaults(), EVERYTHING[name])
    assert [f"{e.json_path}: {e.message}" for e in validator.iter_errors(values)] == []


@pytest.mark.parametrize("path", generated(), ids=str)
def test_generated_files_are_up_to_date(path: Path) -> None:
    written = (ROOT / path).read_text()
    assert written == generated()[path], "run: python -m k8s.chart.generate"
