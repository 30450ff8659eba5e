"""The servers that the contract is tested on: the tests' own, and a real one if there is one.

`GALERNE_TEST_KUBECONFIG` names the kubeconfig of a cluster (v1.36) where namespaces, roles and
CustomResourceDefinitions may be made. No controller manager or scheduler need run there: nothing
waits for what they do, and where they do not, test namespaces stay, marked as going.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from kube_api.server import running_kube_api

from serving.adapters.kube.client import KubeClient
from serving.adapters.kube.connection import connect
from serving.adapters.kube.failures import Conflict
from serving.adapters.kube.resources import NAMESPACES, Resource
from serving.errors import ClusterError, ConfigError

REAL = os.environ.get("GALERNE_TEST_KUBECONFIG")
_ACCOUNTS = Resource("v1", "ServiceAccount", "serviceaccounts")
_PATIENCE_S = 20.0
"""A real server takes up new roles and definitions in a moment, through caches of its own."""

_Found = TypeVar("_Found")


@pytest.fixture(scope="package", params=["test server", *(["real server"] if REAL else [])])
def kubeconfig(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Path]:
    if request.param == "real server":
        assert REAL
        yield Path(REAL)
        return
    with running_kube_api() as api:
        yield api.write_kubeconfig(tmp_path_factory.mktemp("kube") / "config")


@pytest.fixture(scope="package")
def client(kubeconfig: Path) -> Iterator[KubeClient]:
    connection = connect(environ={"KUBECONFIG": str(kubeconfig)})
    yield KubeClient(connection)
    connection.api.rest_client.close()


@pytest.fixture
def namespace(client: KubeClient) -> Iterator[str]:
    name = f"galerne-test-{secrets.token_hex(4)}"
    client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    # Pods need it, and a controller that may not be there makes it, or is about to.
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    with contextlib.suppress(Conflict):
        client.create(_ACCOUNTS, account, namespace=name)
    yield name
    client.delete(NAMESPACES, name)


@pytest.fixture(scope="package")
def eventually() -> Callable[[Callable[[], _Found]], _Found]:
    """What a call returns once the server no longer refuses it."""

    def call(attempt: Callable[[], _Found]) -> _Found:
        ends_at = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return attempt()
            except (ClusterError, ConfigError, AssertionError):
                if time.monotonic() > ends_at:
                    raise
            time.sleep(0.1)

    return call
