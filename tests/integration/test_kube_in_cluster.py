"""The account of a pod: where there is no kubeconfig, the cluster is the one that we run in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from kube_api.certificates import Authority, server_context
from kube_api.server import KubeApi, running_kube_api

from serving.adapters.kube.client import KubeClient
from serving.adapters.kube.connection import connect
from serving.adapters.kube.leaving_watch import watch_own_cluster
from serving.adapters.kube.resources import CONFIG_MAPS
from serving.errors import ConfigError


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """A folder as kubelets mount it, without a token."""
    folder = tmp_path / "account"
    folder.mkdir()
    (folder / "namespace").write_text("default")
    return folder


@pytest.fixture
def api(account: Path) -> Iterator[KubeApi]:
    authority = Authority(account, "ca")
    authority.file.rename(account / "ca.crt")
    with running_kube_api(tls=server_context(authority.issue("127.0.0.1"))) as api:
        yield api


def environment(api: KubeApi, folder: Path) -> dict[str, str]:
    """Of a pod. It has no kubeconfig, wherever the tests run."""
    address = urlsplit(api.url)
    return {
        "KUBECONFIG": str(folder / "none"),
        "KUBERNETES_SERVICE_HOST": str(address.hostname),
        "KUBERNETES_SERVICE_PORT": str(address.port),
        "RAY_CLUSTER_NAME": "galerne-a",
    }


def test_a_pod_asks_with_its_account(api: KubeApi, account: Path, tmp_path: Path) -> None:
    (account / "token").write_text(api.token)
    connection = connect(environ=environment(api, tmp_path), account=account)
    assert connection.namespace == "default"
    assert KubeClient(connection).list(CONFIG_MAPS, namespace=connection.namespace).items == []
    connection.api.rest_client.close()
    watch = watch_own_cluster(print, environ=environment(api, tmp_path), account=account)
    assert watch is not None


def test_a_pod_without_an_account_is_told(api: KubeApi, account: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no service account") as caught:
        connect(environ=environment(api, tmp_path), account=account)
    assert caught.value.code == "kubeconfig_invalid"
    assert "automountServiceAccountToken" in caught.value.hint


def test_a_context_is_not_of_a_pod(api: KubeApi, account: Path, tmp_path: Path) -> None:
    (account / "token").write_text(api.token)
    with pytest.raises(ConfigError) as caught:
        connect(context="prod", environ=environment(api, tmp_path), account=account)
    assert caught.value.code == "kubeconfig_missing"
