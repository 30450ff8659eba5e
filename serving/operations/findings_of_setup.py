"""Complaints about what surrounds the pods: operator, CRDs, settings, secrets, bounds, clocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from serving.core.clocks import ahead_s
from serving.operations.pool_bounds import models_of, pods_for, replica_bounds
from serving.operations.snapshot import (
    Object,
    at,
    name_of,
    settings_name,
    worker_groups,
)
from serving.operations.survey import Finding, Survey, error, warning

RAY_DEFINITIONS = ("rayservices.ray.io", "rayclusters.ray.io")
SECRET_KEYS = ("internal-token", "metrics-token", "keys.json")
_OLDEST_OPERATOR = (1, 5, 1)
"""The first with `authOptions`. Source: kuberay's releases."""
_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")
_CLOCK_SKEW_S = 5.0
"""Gateways trust keys for 5 s, and tell times of replicas."""
_LEASE_S = 40.0
"""A node's lease is renewed every 10 s and lasts for 40 s. Source: kubernetes.io, Leases."""


def missing_parts(survey: Survey) -> Iterator[Finding]:
    """KubeRay, or what it is to run, is not there."""
    for name in RAY_DEFINITIONS:
        if name in survey.definitions and survey.definitions[name] is None:
            yield error(
                "crd_missing",
                f"the cluster has no {name}",
                why="the API refuses the objects that the platform is made of",
                mend="install KubeRay's chart; CRDs by hand: kubectl apply --server-side",
            )
    if survey.operators is not None and not any(_is_available(o) for o in survey.operators):
        yield _operator_missing(survey)
    if not survey.has_namespace:
        namespace = survey.snapshot.namespace
        yield error(
            "namespace_missing",
            f"there is no namespace {namespace!r}",
            why="the platform is in another, or is still to be installed",
            mend=f"name the right one with --namespace, or kubectl create namespace {namespace}",
        )
    elif (
        survey.snapshot.service is None
        and "platform" not in survey.unread
        and survey.definitions.get(RAY_DEFINITIONS[0], {}) is not None
    ):
        yield error(
            "service_missing",
            f"there is no RayService {survey.snapshot.name!r} in namespace "
            f"{survey.snapshot.namespace!r}",
            why="the chart is not installed here, or under another name",
            mend="helm list shows the release: its name is --name",
        )


def settings(survey: Survey) -> Iterator[Finding]:
    """The platform's settings, which commands and new pods read, are not there."""
    service = survey.snapshot.service
    if service is not None and survey.settings is None and "settings" not in survey.unread:
        named = settings_name(survey.snapshot.name)
        yield error(
            "settings_missing",
            f"ConfigMap {named!r} is not there, or has no settings.json",
            why="scale and upgrade go by it, and pods that mount it do not start",
            mend="helm upgrade makes it again; galerne k8s rollback has the last one that upgrade "
            "replaced",
        )


def _operator_missing(survey: Survey) -> Finding:
    """Somebody who has acted on the RayService is an operator, by whatever name."""
    if survey.operators:
        return error(
            "operator_missing",
            "KubeRay's operator does not run",
            why="nobody acts on a RayService",
            mend="kubectl logs of its pod says why",
        )
    service = survey.snapshot.service
    has_acted = at(service, "status", "observedGeneration") == at(service, "metadata", "generation")
    if service is not None and has_acted:
        return warning(
            "operator_missing",
            "no Deployment is labelled as KubeRay's operator",
            why="somebody has acted on the latest RayService; whether that one still runs cannot "
            "be told",
            mend="nothing, if the operator runs otherwise, such as by OLM",
        )
    return error(
        "operator_missing",
        "KubeRay's operator is not installed",
        why="nobody acts on a RayService",
        mend="helm install kuberay-operator, of release 1.5.1 or later",
    )


def _is_available(operator: Object) -> bool:
    return bool(at(operator, "status", "availableReplicas"))


def old_definitions(survey: Survey) -> Iterator[Finding]:
    """An operator or CRDs of a release that is too old, or of two releases."""
    for operator in survey.operators or ():
        version = _operator_version(operator)
        if version and version < _OLDEST_OPERATOR:
            shown = ".".join(map(str, version))
            yield error(
                "operator_old",
                f"KubeRay's operator is of release {shown}",
                why="it does not know authOptions: Ray's ports would be open to everybody",
                mend="upgrade it to 1.5.1 or later, its CRDs first",
            )
    definition = survey.definitions.get(RAY_DEFINITIONS[0])
    if definition is not None and not _knows_authentication(definition):
        yield error(
            "crd_old",
            f"{RAY_DEFINITIONS[0]} is of an old release of KubeRay",
            why="it does not know rayClusterConfig.authOptions; helm upgrade does not update CRDs",
            mend="kubectl apply --server-side the CRDs of the operator's release",
        )


def _operator_version(operator: Object) -> tuple[int, ...] | None:
    for container in at(operator, "spec", "template", "spec", "containers") or ():
        tag = str(container.get("image", "")).rpartition(":")[2]
        if match := _VERSION.fullmatch(tag):
            return tuple(map(int, match.groups()))
    return None


def _knows_authentication(definition: Object) -> bool:
    """Whether the schema has what the chart sets; a definition without a schema says nothing."""
    for version in at(definition, "spec", "versions") or ():
        schema = at(version, "schema", "openAPIV3Schema", "properties", "spec", "properties",
                    "rayClusterConfig", "properties")  # fmt: skip
        if version.get("name") == "v1" and schema is not None:
            return "authOptions" in schema
    return True


def secrets(survey: Survey) -> Iterator[Finding]:
    """Tokens and keys that pods mount and that are not there."""
    if survey.snapshot.service is None or "secrets" in survey.unread:
        return
    for name in sorted(survey.missing_secrets):
        yield error(
            "secret_missing",
            f"there is no Secret {name!r}",
            why="pods name it, and wait for it or for what only it opens",
            mend=f"kubectl create secret generic {name} --from-literal=..., or docker-registry for "
            "one of imagePullSecrets",
        )
    missing = [key for key in SECRET_KEYS if key not in (survey.secret_keys or ())]
    if missing:
        named = f"Secret {survey.secret_name!r}"
        yield error(
            "secret_missing",
            f"there is no {named}" if survey.secret_keys is None
            else f"{named} lacks {', '.join(missing)}",
            why="pods wait in ContainerCreating until it has them all",
            mend="set secrets.create in the chart's values, or make it: kubectl create secret "
            f"generic {survey.secret_name} --from-file=...",
        )  # fmt: skip


def bounds(survey: Survey) -> Iterator[Finding]:
    """Bounds that disagree: of a model, of its worker group, of the RayCluster that serves."""
    snapshot = survey.snapshot
    wanted = {g["groupName"]: g for g in worker_groups(at(snapshot.service, "spec",
                                                          "rayClusterConfig"))}  # fmt: skip
    active = snapshot.clusters.get(snapshot.active)
    for group in worker_groups(at(active, "spec")):
        name = group["groupName"]
        ours, theirs = wanted.get(name), group
        for key in ("minReplicas", "maxReplicas"):
            if ours is not None and ours.get(key) != theirs.get(key):
                yield error(
                    "bounds_not_passed_on",
                    f"worker group {name}: {key} is {ours.get(key)} in the RayService and "
                    f"{theirs.get(key)} in RayCluster {snapshot.active}",
                    why="KubeRay does not pass changed bounds on to a cluster that runs",
                    mend="galerne k8s scale sets both",
                )
    if survey.settings is not None:
        yield from _bounds_of_models(survey, wanted)


def _bounds_of_models(survey: Survey, groups: dict[str, Object]) -> Iterator[Finding]:
    assert survey.settings is not None
    for group in groups.values():
        most = group.get("maxReplicas") or 0
        for name, model in models_of(group, survey.settings):
            if (needed := pods_for(group, model)) > most:
                yield error(
                    "bounds_too_low",
                    f"model {name} may have {replica_bounds(model).most} replicas, worker group "
                    f"{group['groupName']} has room for fewer",
                    why=f"they need {needed} pods, its maxReplicas is {most}: the last replicas "
                    "would wait for ever",
                    mend=f"galerne k8s scale {name} --max N, or a larger maxReplicas of the pool",
                )
    models = survey.settings["models"].values()
    pools = {str((each.get("resources") or {}).get("pool") or "") for each in models}
    for pool in sorted(pools - groups.keys() - {""}):
        if groups:
            yield error(
                "pool_missing",
                f"there is no worker group {pool!r}",
                why="a model's resources.pool names it: its replicas find no node",
                mend="add the pool to the chart's values, or change the model's pool",
            )


def clocks(survey: Survey) -> Iterator[Finding]:
    """Clocks that differ: of this machine, of nodes, from the API server's."""
    server = survey.server_time
    if server is None:
        return
    if survey.read_at is not None:
        # The Date header counts whole seconds.
        read_at = survey.read_at.timestamp()
        skew_s = ahead_s(server.timestamp(), asked_at=read_at - 1, answered_at=read_at)
        if abs(skew_s) > _CLOCK_SKEW_S:
            yield warning(
                "clock_skew",
                f"this machine's clock is {abs(skew_s):.0f} s "
                f"{'behind' if skew_s > 0 else 'ahead of'} the API server's",
                why="ages and times that this command shows are off by that",
                mend="set up time synchronisation here",
            )
    nodes = {str(at(pod, "spec", "nodeName")) for pod in survey.snapshot.pods}
    for lease in survey.leases:
        renewed = at(lease, "spec", "renewTime")
        if renewed is None or name_of(lease) not in nodes:
            continue
        ahead = (datetime.fromisoformat(renewed) - server).total_seconds()
        if ahead > _CLOCK_SKEW_S:
            yield error(
                "node_clock_skew",
                f"the clock of node {name_of(lease)} is {ahead:.0f} s ahead of the API server's",
                why="tokens and keys end early there, and metrics carry wrong times",
                mend="set up time synchronisation on the node",
            )
        elif ahead < -_LEASE_S:
            yield error(
                "node_silent",
                f"node {name_of(lease)} was last heard of {-ahead:.0f} s ago, by its own clock",
                why="its kubelet is down or cut off, or its clock is behind",
                mend="look at the node: kubectl describe node " + name_of(lease),
            )
