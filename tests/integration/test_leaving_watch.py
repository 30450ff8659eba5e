"""Gateways notice in time which machines are about to go, whatever the API server does."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from kube_api.faults import Fault
from kube_api.server import KubeApi, running_kube_api

from serving.adapters.kube.client import KubeClient
from serving.adapters.kube.connection import connect
from serving.adapters.kube.leaving_watch import LeavingWatch, watch_own_cluster

PATIENCE_S = 20.0
CLUSTER = {"ray.io/cluster": "galerne-abcde"}


class Heard:
    """What the watch has told, in order."""

    def __init__(self) -> None:
        self._told: queue.Queue[Mapping[str, str]] = queue.Queue()

    def __call__(self, hosts: Mapping[str, str]) -> None:
        self._told.put(hosts)

    def next(self) -> Mapping[str, str]:
        return self._told.get(timeout=PATIENCE_S)


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with running_kube_api() as api:
        for number, node in ((1, "a"), (2, "b")):
            api.put(node_of(node))
            api.put(pod(f"worker-{number}", f"10.0.0.{number}", node))
        api.put(pod("stranger", "10.0.0.9", "a", labels={}))
        yield api


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def watch(api: KubeApi, heard: Heard, tmp_path: Path) -> Iterator[LeavingWatch]:
    """Not started yet."""
    kubeconfig = api.write_kubeconfig(tmp_path / "config")
    connection = connect(environ={"KUBECONFIG": str(kubeconfig)})
    labels = "ray.io/cluster=galerne-abcde"
    watch = LeavingWatch(
        KubeClient(connection), namespace="default", labels=labels, on_change=heard
    )
    yield watch
    watch.stop()


@pytest.fixture
def watching(watch: LeavingWatch) -> LeavingWatch:
    watch.start()
    return watch


def node_of(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec}


def pod(name: str, address: str, node: str, labels: Mapping[str, str] = CLUSTER) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": dict(labels)},
        "spec": {"nodeName": node, "containers": [{"name": "ray", "image": "galerne"}]},
        "status": {"podIP": address},
    }


def test_a_cordon_and_its_end_are_told(api: KubeApi, heard: Heard, watching: LeavingWatch) -> None:
    """Of the platform's own pods."""
    api.put(node_of("a", unschedulable=True))
    assert heard.next() == {"10.0.0.1": "its node is cordoned"}
    api.put(node_of("b", taints=[{"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}]))
    assert heard.next().keys() == {"10.0.0.1", "10.0.0.2"}
    api.put(node_of("a"))
    assert heard.next().keys() == {"10.0.0.2"}
    api.put(node_of("b"))
    assert heard.next() == {}


def test_a_new_pod_on_a_leaving_node_is_told(
    api: KubeApi, heard: Heard, watching: LeavingWatch
) -> None:
    api.put(node_of("a", unschedulable=True))
    heard.next()
    api.put(pod("worker-3", "10.0.0.3", "a"))
    assert heard.next().keys() == {"10.0.0.1", "10.0.0.3"}
    api.delete("v1", "Pod", "worker-1", "default")
    assert heard.next().keys() == {"10.0.0.3"}


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_watch_outlives_whatever_happens(api: KubeApi, tmp_path: Path) -> None:
    called = threading.Event()

    def fail(_: Mapping[str, str]) -> None:
        called.set()
        raise RuntimeError("nobody expects this")

    connection = connect(environ={"KUBECONFIG": str(api.write_kubeconfig(tmp_path / "config"))})
    watch = LeavingWatch(KubeClient(connection), namespace="default", labels="", on_change=fail)
    watch.start()
    api.put(node_of("a", unschedulable=True))
    assert called.wait(PATIENCE_S)
    watch.stop()
    ends_at = time.monotonic() + PATIENCE_S
    while not watch.problems() and time.monotonic() < ends_at:
        time.sleep(0.01)
    assert "nobody expects this" in "".join(watch.problems())


@pytest.mark.parametrize("fault", [Fault.INTERNAL_ERROR, Fault.RESET, Fault.TOO_MANY_REQUESTS])
def test_a_failing_server_delays_the_word(
    api: KubeApi, heard: Heard, watch: LeavingWatch, fault: Fault
) -> None:
    """The connection breaks after a first event, and no other is to be had for a while."""
    api.faults.order(Fault.DROP_WATCH, verb="watch", path="/nodes")
    api.faults.order(fault, times=3, verb="watch", path="/nodes")
    watch.start()
    api.put(node_of("a", unschedulable=True))
    assert heard.next().keys() == {"10.0.0.1"}
    api.put(node_of("b", unschedulable=True))
    assert heard.next().keys() == {"10.0.0.1", "10.0.0.2"}
    api.put(node_of("a"))
    assert heard.next().keys() == {"10.0.0.2"}
    assert api.faults.num_left == 0
    assert watch.problems() == []


def test_elsewhere_nothing_is_watched(tmp_path: Path, heard: Heard) -> None:
    """Not on a machine of one's own, and not in a pod that may not ask."""
    assert watch_own_cluster(heard, environ={}, account=tmp_path) is None
    environ = {"RAY_CLUSTER_NAME": "galerne-abcde", "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    assert watch_own_cluster(heard, environ=environ, account=tmp_path) is None
