"""What is said of a server that is not trusted, that trusts us not, or that is no API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from kube_api.certificates import Authority, server_context
from kube_api.no_api import page_server
from kube_api.server import KubeApi, running_kube_api

from serving.adapters.kube.client import KubeClient
from serving.adapters.kube.connection import connect
from serving.adapters.kube.failures import Attempt, to_error, to_refusal
from serving.adapters.kube.resources import CONFIG_MAPS
from serving.errors import ClusterError, ConfigError

HOST = "127.0.0.1"
Change = dict[str, Any]


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def ask(api: KubeApi, folder: Path, *, user: Change | None = None, **cluster: Any) -> None:
    """One request, with a kubeconfig that has this of its user and cluster changed."""
    file = api.write_kubeconfig(folder / "config")
    config = yaml.safe_load(file.read_text())
    config["clusters"][0]["cluster"] |= {key.replace("_", "-"): v for key, v in cluster.items()}
    config["users"][0]["user"] |= user or {}
    file.write_text(yaml.safe_dump(config))
    connection = connect(environ={"KUBECONFIG": str(file)})
    try:
        KubeClient(connection, timeout_s=5).list(CONFIG_MAPS, namespace="default")
    finally:
        connection.api.rest_client.close()


def test_a_server_of_our_authority_is_trusted(ours: Authority, tmp_path: Path) -> None:
    with running_kube_api(tls=server_context(ours.issue(HOST))) as api:
        ask(api, tmp_path, certificate_authority=str(ours.file))
        ask(api, tmp_path, insecure_skip_tls_verify=True)


@pytest.mark.parametrize(
    ("name", "days_left", "known", "said", "hint"),
    [
        (HOST, 1, None, "certificate", "certificate-authority-data of the kubeconfig"),
        (HOST, 1, "other", "certificate verify failed", "certificate-authority-data"),
        (HOST, -1, "ours", "certificate has expired", "is to be renewed"),
        ("127.0.0.2", 1, "ours", "not valid for", "tls-server-name"),
    ],
)
def test_a_server_that_is_not_trusted(
    name: str, days_left: int, known: str | None, said: str, hint: str, ours: Authority,
    tmp_path: Path,
) -> None:  # fmt: skip
    files = {"ours": ours.file, "other": Authority(tmp_path, "other").file}
    trusted = {"certificate_authority": str(files[known])} if known else {}
    context = server_context(ours.issue(name, days_left=days_left))
    with running_kube_api(tls=context) as api, pytest.raises(ClusterError) as caught:
        ask(api, tmp_path, **trusted)
    assert (caught.value.code, caught.value.retryable) == ("kube_unreachable", False)
    assert said in caught.value.message
    assert hint in caught.value.hint


def test_a_client_certificate_that_has_expired(ours: Authority, tmp_path: Path) -> None:
    pair = ours.issue("me", days_left=-1)
    user = {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}
    # An API server itself answers 401. Proxies do it so.
    context = server_context(ours.issue(HOST), clients_of=ours)
    with page_server(context) as url, pytest.raises(ClusterError) as caught:
        ask(KubeApi(url=url), tmp_path, user=user, certificate_authority=str(ours.file))
    assert "alert" in caught.value.message
    assert "refuses the client certificate" in caught.value.hint


def test_a_key_of_another_certificate(ours: Authority, tmp_path: Path) -> None:
    one, other = ours.issue("one"), ours.issue("other")
    user = {"client-certificate": str(one.certificate), "client-key": str(other.key)}
    context = server_context(ours.issue(HOST))
    with running_kube_api(tls=context) as api, pytest.raises(ClusterError) as caught:
        ask(api, tmp_path, user=user, certificate_authority=str(ours.file))
    assert "do not belong together" in caught.value.hint


def test_http_to_a_server_of_https() -> None:
    # As Go's server answers, which is what an API is.
    refusal = to_refusal(400, b"Client sent an HTTP request to an HTTPS server.\n", None)
    error = to_error(refusal, Attempt("get", CONFIG_MAPS, "default", "a"))
    assert (error.code, "https://" in error.hint) == ("kube_no_api", True)


def test_a_page_is_no_answer(tmp_path: Path) -> None:
    with page_server() as url, pytest.raises(ConfigError) as caught:
        ask(KubeApi(url=url), tmp_path)
    assert caught.value.code == "kube_no_api"
    assert caught.value.message.startswith("what answers is no Kubernetes API: <html> to list")
    assert "want a login" in caught.value.hint
