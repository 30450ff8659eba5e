"""Watching a cluster for machines that are about to go: `LeavingWatch`."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from serving.adapters.kube.client import KubeClient, Object
from serving.adapters.kube.connection import ACCOUNT_FOLDER, connect
from serving.adapters.kube.resources import NODES, PODS, Resource
from serving.adapters.kube.watching import Change, Event, watch
from serving.operations.leaving import leaving_hosts, node_leaves

_ROUND_S = 3600.0
"""After so long everything is listed anew, whatever happens."""
_PAUSE_S = 30.0
"""After a failure that the watch itself did not get over."""

logger = logging.getLogger("ray.serve")


class LeavingWatch:
    """Tells which addresses are of pods that go, or whose nodes go, with the reasons.

    Nothing depends on it: while the cluster does not answer, the last word stays.

    Args:
        client: of the cluster.
        namespace: of the pods.
        labels: selector of the pods.
        on_change: called with all addresses whenever they have changed, in a thread of its own.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        labels: str,
        on_change: Callable[[Mapping[str, str]], None],
    ) -> None:
        self._client = client
        self._on_change = on_change
        self._lock = threading.Lock()
        self._pods: dict[str, Object] = {}
        self._leaving_nodes: dict[str, Object] = {}
        self._told: dict[str, str] = {}
        self._faults: dict[str, str] = {}
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow, args=arguments, name="leaving", daemon=True)
            for arguments in (
                (PODS, namespace, labels, self._note_pods),
                (NODES, "", "", self._note_nodes),
            )
        ]

    def start(self) -> None:
        """Begin to watch."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Watch no longer than the next event or failure."""
        self._stopped.set()

    def problems(self) -> list[str]:
        """What an operator must know, as long as it lasts."""
        return list(self._faults.values())

    def _follow(
        self, resource: Resource, namespace: str, labels: str, note: Callable[[Event], None]
    ) -> None:
        while not self._stopped.is_set():
            try:
                events = watch(
                    self._client, resource, namespace=namespace, labels=labels, timeout_s=_ROUND_S
                )
                for event in events:
                    self._faults.pop(resource.plural, None)
                    with self._lock:
                        note(event)
                        self._tell()
                    if self._stopped.is_set():
                        return
            # Whatever it was: a thread that ends would leave the last word for ever.
            except Exception as error:
                self._fail(resource, error)
                self._stopped.wait(_PAUSE_S)

    def _note_pods(self, event: Event) -> None:
        _note(self._pods, event, lambda _: True)

    def _note_nodes(self, event: Event) -> None:
        _note(self._leaving_nodes, event, lambda node: node_leaves(node) is not None)

    def _tell(self) -> None:
        found = leaving_hosts(self._pods.values(), self._leaving_nodes)
        if found == self._told:
            return
        for host in found.keys() - self._told.keys():
            logger.info("replicas at %s get no new requests: %s", host, found[host])
        self._on_change(found)
        self._told = found

    def _fail(self, resource: Resource, error: Exception) -> None:
        fault = f"{resource.plural} that are about to go are not noticed: {error}"
        if self._faults.get(resource.plural) != fault:
            logger.warning(fault)
        self._faults[resource.plural] = fault


def _note(known: dict[str, Object], event: Event, matters: Callable[[Object], bool]) -> None:
    """Bring the objects that matter up to date."""
    if event.change is Change.LISTED:
        known.clear()
    for value in event.objects:
        name = value["metadata"]["name"]
        if event.change is not Change.GONE and matters(value):
            known[name] = value
        else:
            known.pop(name, None)


def watch_own_cluster(
    on_change: Callable[[Mapping[str, str]], None],
    *,
    environ: Mapping[str, str] = os.environ,
    account: Path = ACCOUNT_FOLDER,
) -> LeavingWatch | None:
    """A watch over the pods of this pod's Ray cluster, not started yet; `None` where this is none,
    or has no account to ask with.

    KubeRay gives each pod `RAY_CLUSTER_NAME`, and its label `ray.io/cluster`.
    """
    cluster = environ.get("RAY_CLUSTER_NAME")
    if cluster is None or not (account / "token").exists():
        return None
    connection = connect(environ=environ, account=account)
    return LeavingWatch(
        KubeClient(connection),
        namespace=connection.namespace,
        labels=f"ray.io/cluster={cluster}",
        on_change=on_change,
    )
