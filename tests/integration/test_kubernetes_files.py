"""Plain manifests, the image and the documentation say what the chart says."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest
import yaml
from helm_chart import CI_FILES, ROOT, containers, load_yaml, ray_pods, ray_service, require_helm

import k8s.cost
from k8s.cost import cost_table
from k8s.render import RENDERED, manifests

PAGE = ROOT / "docs" / "kubernetes.md"
ORDER = ("laptop-cpu", "single-gpu", "multi-model-ha", "sovereign-airgapped")


@pytest.mark.parametrize("name", RENDERED)
def test_manifests_are_up_to_date(name: str) -> None:
    require_helm()
    path = Path(f"k8s/manifests/{name}.yaml")
    assert (ROOT / path).read_text() == manifests()[path], "run: python -m k8s.render"


@pytest.mark.parametrize("name", RENDERED)
def test_every_object_of_a_manifest_has_its_place(name: str) -> None:
    text = (ROOT / f"k8s/manifests/{name}.yaml").read_text()
    objects = [each for each in yaml.safe_load_all(text) if each]
    of_all = {"Namespace", "ClusterRole", "ClusterRoleBinding"}
    places = {each["kind"]: each["metadata"].get("namespace") for each in objects}
    assert {kind for kind, place in places.items() if place is None} == of_all
    assert set(places.values()) == {None, "galerne"}
    # A Secret in a public file is no secret, and Helm's notes mean nothing here.
    assert "Secret" not in places
    assert "managed-by: Helm" not in text


def test_the_image_has_what_pods_ask_of_it() -> None:
    text = (ROOT / "k8s" / "image" / "Containerfile").read_text()
    pod = ray_pods(ray_service({}))["cpu"]
    container = containers(pod)[-1]
    user = pod["spec"]["securityContext"]["runAsUser"]
    assert f"USER {user}:{user}" in text
    (binary,) = (
        each["value"]
        for each in container["env"]
        if each["name"] == "RAY_SERVE_HAPROXY_BINARY_PATH"
    )
    venv = binary.removesuffix("/bin/galerne-haproxy")
    assert f"python -m venv {venv} " in text
    assert f"PATH={venv}/bin:$PATH" in text
    assert " wget " in text  # of KubeRay's readiness probe
    allowed = (ROOT / ".containerignore").read_text().splitlines()
    copied = {"requirements.lock", "pyproject.toml", "README.md", "LICENSE", "loadtest", "serving"}
    assert {line.removeprefix("!") for line in allowed if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


def test_the_page_says_what_each_release_asks_for() -> None:
    table = cost_table({name: ray_service(load_yaml(CI_FILES[name])) for name in ORDER})
    assert set(ORDER) == set(CI_FILES)
    assert table in PAGE.read_text(), f"docs/kubernetes.md should have:\n{table}"


def test_examples_of_counting_hold() -> None:
    assert doctest.testmod(k8s.cost).failed == 0
