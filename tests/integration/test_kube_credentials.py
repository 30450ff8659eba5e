"""Credential plugins of a kubeconfig: tokens, certificates, failures, and the time they take."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from kube_api.certificates import Authority, server_context
from kube_api.no_api import page_server
from kube_api.server import KubeApi, running_kube_api
from typer.testing import CliRunner

from serving.adapters.kube.client import KubeClient
from serving.adapters.kube.connection import connect
from serving.adapters.kube.resources import CONFIG_MAPS
from serving.cli.console import report
from serving.cli.k8s import app
from serving.errors import ConfigError, TimedOut

V1 = "client.authentication.k8s.io/v1"


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with running_kube_api() as api:
        yield api


def with_plugin(api: KubeApi, folder: Path, script: str, **settings: Any) -> dict[str, str]:
    """The environment of a kubeconfig whose user is a Python script beside it."""
    program = folder / "plugin"
    program.write_text(f"#!{sys.executable}\nimport json, os, sys, time\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    file = api.write_kubeconfig(folder / "config")
    config = yaml.safe_load(file.read_text())
    config["users"][0]["user"] = {"exec": {"apiVersion": V1, "command": "./plugin", **settings}}
    file.write_text(yaml.safe_dump(config))
    return {"KUBECONFIG": str(file), "PATH": "/usr/bin:/bin"}


def printing(**status: Any) -> str:
    """A script that prints credentials, and notes beside itself that it was asked."""
    answer = json.dumps({"apiVersion": V1, "kind": "ExecCredential", "status": status})
    return f"open(sys.argv[0] + '.log', 'a').write('asked '); print({answer!r})"


def list_with(environ: dict[str, str], times: int = 1) -> None:
    connection = connect(environ=environ, timeout_s=5)
    try:
        for _ in range(times):
            KubeClient(connection).list(CONFIG_MAPS, namespace="default")
    finally:
        connection.api.rest_client.close()


def in_an_hour(hours: int = 1) -> str:
    return f"{datetime.now(UTC) + timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}"


def test_a_token_is_used_until_it_runs_out(api: KubeApi, tmp_path: Path) -> None:
    asked = tmp_path / "plugin.log"
    for hours, num_asked in ((1, 1), (-1, 4)):
        asked.write_text("")
        script = printing(token=api.token, expirationTimestamp=in_an_hour(hours))
        list_with(with_plugin(api, tmp_path, script), times=3)
        assert asked.read_text().split() == ["asked"] * num_asked


def test_a_certificate_is_shown_to_the_server(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("me")
    script = printing(
        clientCertificateData=pair.certificate.read_text(), clientKeyData=pair.key.read_text()
    )
    context = server_context(authority.issue("127.0.0.1"), clients_of=authority)
    with page_server(context) as url:
        environ = with_plugin(KubeApi(url=url), tmp_path, script)
        config = yaml.safe_load(Path(environ["KUBECONFIG"]).read_text())
        config["clusters"][0]["cluster"]["certificate-authority"] = str(authority.file)
        Path(environ["KUBECONFIG"]).write_text(yaml.safe_dump(config))
        # The server lets nobody in but clients with a certificate, and then has nothing to offer.
        with pytest.raises(ConfigError, match="no Kubernetes API"):
            list_with(environ)


def test_what_the_plugin_is_told(api: KubeApi, tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = (
        f"open({str(told)!r}, 'w').write(json.dumps([os.environ['KUBERNETES_EXEC_INFO'], "
        "os.environ['REGION'], sys.argv[1:]]))\n" + printing(token=api.token)
    )
    environ = with_plugin(
        api, tmp_path, script, args=["get", "token"], provideClusterInfo=True,
        env=[{"name": "REGION", "value": "eu"}],
    )  # fmt: skip
    list_with(environ)
    info, region, arguments = json.loads(told.read_text())
    assert (region, arguments) == ("eu", ["get", "token"])
    assert json.loads(info) == {
        "apiVersion": V1, "kind": "ExecCredential",
        "spec": {"interactive": False, "cluster": {"server": api.url}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("sys.exit(7)", "it ended with status 7"),
        ("print('hello')", "what it prints is no ExecCredential"),
        ("print('[]')", "what it prints is no ExecCredential"),
        ("print('{\"status\": {}}')", "it prints neither a token nor a certificate"),
    ],
)
def test_a_plugin_that_fails_is_told(script: str, why: str, api: KubeApi, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        list_with(with_plugin(api, tmp_path, script))
    assert caught.value.code == "kube_plugin_failed"
    assert why in caught.value.message
    assert caught.value.hint.startswith("run it by hand: ")


def test_a_plugin_that_is_not_installed_says_how_to_get_it(api: KubeApi, tmp_path: Path) -> None:
    environ = with_plugin(
        api, tmp_path, "", command="galerne-no-such-plugin", installHint="get it\nfrom there"
    )
    with pytest.raises(ConfigError, match="No such file") as caught:
        list_with(environ)
    assert caught.value.hint == "get it from there"


def test_a_plugin_that_hangs_costs_the_time_limit(
    api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = with_plugin(api, tmp_path, "time.sleep(600)")
    monkeypatch.setenv("KUBECONFIG", environ["KUBECONFIG"])
    result = CliRunner().invoke(app, ["status", "--timeout", "0.3"])
    assert isinstance(result.exception, TimedOut)
    assert report(result.exception) == 3
    assert "plugin has not answered within 0.3 s" in result.exception.message
    assert "it may wait for a login" in result.exception.hint
