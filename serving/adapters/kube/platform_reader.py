"""Reading one platform: its objects for `status`, and what surrounds it for `doctor`."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from serving.adapters.kube.client import KubeClient, Object
from serving.adapters.kube.failures import KindMissing, ObjectMissing
from serving.adapters.kube.resources import (
    CONFIG_MAPS,
    DEFINITIONS,
    DEPLOYMENTS,
    EVENTS,
    LEASES,
    POD_MONITORS,
    PODS,
    RAY_CLUSTERS,
    RAY_SERVICES,
    SCRAPE_CONFIGS,
    SECRETS,
)
from serving.errors import ConfigError
from serving.operations.findings_of_setup import RAY_DEFINITIONS
from serving.operations.manifests import needed_secrets
from serving.operations.snapshot import (
    CLUSTER_LABEL,
    ORIGIN_LABEL,
    Snapshot,
    name_of,
    secret_name,
    settings_name,
)
from serving.operations.survey import Survey

_OPERATORS = (
    "app.kubernetes.io/name=kuberay-operator",
    "app.kubernetes.io/component=kuberay-operator",
)
"""Labels of the operator's Deployment: as KubeRay's chart gives them, and as its kustomize files
do. Source: kuberay, helm-chart/kuberay-operator and ray-operator/config."""
_NODE_LEASES = "kube-node-lease"

_Found = TypeVar("_Found")


def read_snapshot(client: KubeClient, namespace: str, name: str) -> Snapshot:
    """The platform as it is; an empty snapshot if there is none.

    Raises:
        KindMissing: KubeRay is not installed.
    """
    try:
        service = client.get(RAY_SERVICES, name, namespace=namespace)
    except ObjectMissing:
        return Snapshot(name, namespace, None)
    origin = f"{ORIGIN_LABEL}={name}"
    clusters = client.list(RAY_CLUSTERS, namespace=namespace, labels=origin).items
    names = ",".join(sorted(name_of(each) for each in clusters))
    pods = (
        client.list(PODS, namespace=namespace, labels=f"{CLUSTER_LABEL} in ({names})").items
        if names
        else []
    )
    return Snapshot(name, namespace, service, {name_of(each): each for each in clusters}, pods)


def read_settings(client: KubeClient, namespace: str, name: str) -> dict[str, Any]:
    """The settings tree of a platform.

    Raises:
        ConfigError: there is none, or it is no JSON.
    """
    try:
        config_map = client.get(CONFIG_MAPS, settings_name(name), namespace=namespace)
        tree: dict[str, Any] = json.loads(config_map["data"]["settings.json"])
    except (ObjectMissing, KeyError, ValueError) as error:
        raise ConfigError(
            f"ConfigMap {settings_name(name)!r} in namespace {namespace!r} has no settings.json",
            code="settings_missing",
            hint="is --name the name of the Helm release?",
        ) from error
    return tree


def read_survey(client: KubeClient, namespace: str, name: str) -> Survey:
    """All that `doctor` looks at. What may not be read is left out, and said to be."""
    unread: set[str] = set()

    def readable(part: str, read: Callable[[], _Found], default: _Found) -> _Found:
        try:
            return read()
        except KindMissing:
            return default
        except ConfigError as error:
            if error.code == "kube_forbidden":
                unread.add(part)
            elif error.code != "settings_missing":
                raise
            return default

    empty = Snapshot(name, namespace, None)
    snapshot = readable("platform", lambda: read_snapshot(client, namespace, name), empty)
    secret = secret_name(snapshot)
    none: list[Object] = []
    return Survey(
        snapshot=snapshot,
        definitions=readable("definitions", lambda: _definitions(client), {}),
        operators=readable("operators", lambda: _operators(client), None),
        settings=readable("settings", lambda: read_settings(client, namespace, name), None),
        secret_name=secret,
        secret_keys=readable("secrets", lambda: _secret_keys(client, namespace, secret), None),
        missing_secrets=readable(
            "secrets", lambda: _missing_secrets(client, snapshot, but=secret), frozenset()
        ),
        has_namespace=client.has_namespace(namespace),
        monitors=readable("monitors", lambda: _monitors(client, namespace), None),
        events=readable("events", lambda: client.list(EVENTS, namespace=namespace).items, none),
        leases=readable("leases", lambda: client.list(LEASES, namespace=_NODE_LEASES).items, none),
        server_time=client.server_time,
        read_at=datetime.now(UTC),
        unread=frozenset(unread),
    )


def _definitions(client: KubeClient) -> dict[str, Object | None]:
    return {name: client.find(DEFINITIONS, name) for name in RAY_DEFINITIONS}


def _operators(client: KubeClient) -> list[Object] | None:
    found: dict[tuple[str, str], Object] = {}
    for labels in _OPERATORS:
        for each in client.list(DEPLOYMENTS, labels=labels).items:
            found[each["metadata"]["namespace"], name_of(each)] = each
    return list(found.values())


def has_operator(client: KubeClient) -> bool:
    """Whether KubeRay's operator is a Deployment that its labels tell. It may well run otherwise,
    such as by OLM or beside the API server. Taken for granted by those who may not look."""
    try:
        return bool(_operators(client))
    except ConfigError as error:
        if error.code != "kube_forbidden":
            raise
        return True


def _secret_keys(client: KubeClient, namespace: str, name: str) -> frozenset[str] | None:
    found = client.find(SECRETS, name, namespace=namespace)
    return None if found is None else frozenset(found.get("data") or {})


def _missing_secrets(client: KubeClient, snapshot: Snapshot, *, but: str) -> frozenset[str]:
    names = needed_secrets(snapshot.service) - {but} if snapshot.service else ()
    return frozenset(
        name for name in names
        if client.find(SECRETS, name, namespace=snapshot.namespace) is None
    )  # fmt: skip


def _monitors(client: KubeClient, namespace: str) -> list[Object] | None:
    found: list[Object] = client.list(POD_MONITORS, namespace=namespace).items
    try:
        found += client.list(SCRAPE_CONFIGS, namespace=namespace).items
    except KindMissing:  # a prometheus-operator before 0.65
        return found
    return found
