"""Bounds of worker groups that KubeRay does not pass on; `apply` and `upgrade` share this step."""

from __future__ import annotations

from rich.markup import escape

from serving.adapters.kube.client import KubeClient, Object
from serving.adapters.kube.failures import ObjectMissing
from serving.adapters.kube.resources import RAY_CLUSTERS
from serving.cli.console import err
from serving.errors import ClusterError, ConfigError
from serving.operations.scale_plan import changes_to_pass_on, with_bounds
from serving.operations.snapshot import at


def pass_bounds_on(client: KubeClient, service: Object) -> None:
    """The newest RayCluster of a RayService has its bounds, or it is said that it has not.

    Also where nothing was changed: an earlier command may have stopped before it came to that.
    """
    status, namespace = service.get("status") or {}, service["metadata"]["namespace"]
    names = [
        at(status, part, "rayClusterName")
        for part in ("pendingServiceStatus", "activeServiceStatus")
    ]
    name = next(filter(None, names), None)
    if name is None:
        return

    def changed(cluster: Object) -> Object:
        changes = changes_to_pass_on(service["spec"]["rayClusterConfig"], cluster["spec"])
        return {**cluster, "spec": with_bounds(cluster["spec"], changes)}

    try:
        client.modify(RAY_CLUSTERS, name, changed, namespace=namespace)
    except ObjectMissing:
        return
    except (ClusterError, ConfigError) as error:
        err.print(
            f"[yellow]changed bounds of worker groups have not reached RayCluster {escape(name)} "
            f"({escape(error.message)}): galerne k8s scale MODEL --min N --max N sets both"
            "[/yellow]",
            soft_wrap=True,
        )
