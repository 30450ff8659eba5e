"""`galerne k8s drain`: a node without the platform's pods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from serving.adapters.kube.client import Object
from serving.adapters.kube.failures import BudgetForbids
from serving.adapters.kube.resources import NODES, PODS
from serving.cli.console import err, print_json, progress
from serving.cli.k8s_options import JsonOption, PatientOptions, Place
from serving.cli.option_groups import grouped
from serving.errors import ClusterError, TimedOut
from serving.operations.draining import (
    Progress,
    drain_order,
    has_head,
    is_ending,
    must_wait,
)
from serving.operations.snapshot import name_of

_POLL_S = 2.0


@grouped
def drain(
    node: Annotated[str, typer.Argument(help="The node's name.")],
    as_json: JsonOption = False,
    *,
    platform: PatientOptions,
) -> None:
    """Cordon a node, ask the platform's pods on it to go as their disruption budgets allow, and
    wait until they are gone: each finishes its requests first.

    Pods of others stay, unlike with `kubectl drain`. `kubectl uncordon` takes the node back.
    """
    place = platform.open()
    if place.snapshot().service is None:
        raise ClusterError(
            f"there is no RayService {place.name!r} in namespace {place.namespace!r}; nothing was "
            "changed",
            code="service_missing",
            hint="--namespace and --name say which platform",
        )
    place.client.merge(NODES, node, {"spec": {"unschedulable": True}})
    pods = _pods_on(place, node)
    if has_head(pods) and not as_json:
        err.print(
            "[yellow]the cluster's head is on this node: without Redis (gcsFaultToleranceOptions) "
            "all replicas restart with it[/yellow]",
            soft_wrap=True,
        )
    with progress(f"draining {node}") as tell:
        gone = _drain(place, node, tell)
    if as_json:
        print_json({"node": node, "gone": gone})
    else:
        err.print(f"[green]drained[/green] {node}: {len(gone)} pods; kubectl uncordon {node} takes "
                  "it back", soft_wrap=True)  # fmt: skip


def _pods_on(place: Place, node: str) -> tuple[Object, ...]:
    """The platform's pods on a node, in the order in which they go."""
    found = place.client.list(
        PODS, namespace=place.namespace, labels="ray.io/node-type", fields=f"spec.nodeName={node}"
    ).items
    clusters = place.snapshot().clusters
    ours = [p for p in found if p["metadata"]["labels"].get("ray.io/cluster") in clusters]
    return tuple(dict(each) for each in drain_order(ours))


def _drain(place: Place, node: str, tell: Callable[[str], None]) -> list[str]:
    """Names of the pods that are gone.

    Raises:
        TimedOut: some are not in time.
    """
    pacing = place.client.transport.pacing
    ends_at = pacing.clock() + place.timeout_s
    seen: dict[str, None] = {}
    while True:
        pods = _pods_on(place, node)
        seen |= {name_of(pod): None for pod in pods}
        standing = _ask_to_go(place, pods, seen)
        tell(standing.describe())
        if standing.done:
            return list(seen)
        if pacing.clock() >= ends_at:
            raise TimedOut(
                f"node {node} is not free within {place.timeout_s:g} s: {standing.describe()}",
                code="drain_timed_out",
                hint="the node stays cordoned; the same command goes on. A budget gives way when "
                "replicas are ready elsewhere: is there room on other nodes?",
            )
        pacing.sleep(_POLL_S)


def _ask_to_go(place: Place, pods: tuple[Object, ...], seen: dict[str, None]) -> Progress:
    """How the drain stands once each pod has been asked."""
    ending, held = [], {}
    for pod in pods:
        name = name_of(pod)
        if must_wait(pod, pods):
            held[name] = "the node's workers go first"
            continue
        if not is_ending(pod):
            try:
                place.client.evict(name, namespace=place.namespace)
            except BudgetForbids as error:
                held[name] = error.message
                continue
        ending.append(name)
    there = {name_of(pod) for pod in pods}
    return Progress(tuple(each for each in seen if each not in there), tuple(ending), held)
