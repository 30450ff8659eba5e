"""The test server refuses what the real one would, and speaks with the official client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kube_api.definitions import HAS_CRDS
from kube_api.schemas import HAS_BUILT_IN
from kube_api.server import KubeApi, running_kube_api

from serving.adapters.kube.client import KubeClient
from serving.adapters.kube.connection import Connection, connect
from serving.adapters.kube.resources import CONFIG_MAPS, RAY_SERVICES
from serving.errors import ConfigError


@pytest.fixture(scope="module")
def api() -> Iterator[KubeApi]:
    with running_kube_api() as api:
        yield api


@pytest.fixture(scope="module")
def connection(api: KubeApi, tmp_path_factory: Any) -> Iterator[Connection]:
    file = api.write_kubeconfig(tmp_path_factory.mktemp("kube") / "config")
    connection = connect(environ={"KUBECONFIG": str(file)})
    yield connection
    connection.api.rest_client.close()


def service(**spec: Any) -> dict[str, Any]:
    metadata = {"name": "g", "namespace": "default"}
    containers = [{"name": "ray-head", "image": "galerne:1"}]
    head = {"rayStartParams": {}, "template": {"spec": {"containers": containers}}}
    spec["rayClusterConfig"] = {"headGroupSpec": head}
    return {"apiVersion": "ray.io/v1", "kind": "RayService", "metadata": metadata, "spec": spec}


@pytest.mark.skipif(not HAS_CRDS, reason="the schemas of KubeRay's CRDs are not here")
def test_custom_resources_are_checked(connection: Connection) -> None:
    client = KubeClient(connection)
    client.apply(RAY_SERVICES, service(serveConfigV2="applications: []"))
    with pytest.raises(ConfigError, match="serveConfigV3"):
        client.apply(RAY_SERVICES, service(serveConfigV3=""))
    with pytest.raises(ConfigError, match="not of type 'string'"):
        client.apply(RAY_SERVICES, service(serveConfigV2=5))


def test_generations_count_specifications(api: KubeApi, connection: Connection) -> None:
    client = KubeClient(connection)
    first = client.apply(RAY_SERVICES, service(serveConfigV2="applications: []"), force=True)
    status = {"status": {"numServeEndpoints": 1}}
    client.merge(RAY_SERVICES, "g", status, namespace="default", subresource="status")
    labelled = {"metadata": {"labels": {"a": "b"}}}
    same = client.merge(RAY_SERVICES, "g", labelled, namespace="default")
    assert same["metadata"]["generation"] == first["metadata"]["generation"]
    assert same["status"] == status["status"]
    other = client.merge(RAY_SERVICES, "g", {"spec": {"serveConfigV2": "{}"}}, namespace="default")
    assert other["metadata"]["generation"] == first["metadata"]["generation"] + 1


@pytest.mark.skipif(not HAS_BUILT_IN, reason="kubernetes-validate is not installed")
def test_built_in_kinds_are_checked(connection: Connection) -> None:
    metadata = {"name": "a", "namespace": "default"}
    wrong = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"x": 1}}
    with pytest.raises(ConfigError, match="string"):
        KubeClient(connection).apply(CONFIG_MAPS, wrong)


def test_the_official_dynamic_client_finds_its_way(
    api: KubeApi, connection: Connection, tmp_path: Path
) -> None:
    from kubernetes.dynamic import DynamicClient

    dynamic = DynamicClient(connection.api, cache_file=str(tmp_path / "discovery"))
    services = dynamic.resources.get(api_version="ray.io/v1", kind="RayService")
    config_maps = dynamic.resources.get(api_version="v1", kind="ConfigMap")
    metadata = {"name": "dynamic", "namespace": "default"}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"x": "1"}}
    config_maps.create(body=body, namespace="default")
    assert config_maps.get(name="dynamic", namespace="default").data.x == "1"
    assert services.namespaced
