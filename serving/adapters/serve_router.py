"""Ray Serve's replica directory, pushed into the gateway process.

Serve broadcasts the running replicas of a deployment to every process that holds a handle to it,
through the handle's request router. `FleetRouter` takes the broadcast and hands it on. Requests
then go straight to the replica's own listener: no actor call on the request path, and no slot on a
replica that a killed gateway would leak.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from serving.core.types import ReplicaEndpoint, ReplicaId

logger = logging.getLogger("galerne.gateway")

Listener = Callable[[tuple[ReplicaEndpoint, ...]], None]

_listeners: dict[str, Listener] = {}
_latest: dict[str, tuple[ReplicaEndpoint, ...]] = {}
# Process-wide because Serve constructs the router itself, from an import path; keyed by deployment.


class FleetRouter(RequestRouter):
    """Reports every change of the running replicas; routes the rare handle call to any of them."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        name = self._deployment_id.name
        _latest[name] = tuple(_to_endpoint(replica) for replica in replicas)
        if name in _listeners:
            _listeners[name](_latest[name])

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        del pending_request
        return [candidate_replicas]


def router_config() -> RequestRouterConfig:
    """What a deployment needs for `watch_replicas` to work on it."""
    return RequestRouterConfig(request_router_class=f"{__name__}:{FleetRouter.__name__}")


def watch_replicas(handle: DeploymentHandle[Any], listener: Listener) -> None:
    """Call `listener` now and after every change, on this process's event loop.

    The handle must be kept: its router is what Serve talks to.
    """
    _listeners[handle.deployment_name] = listener
    listener(_latest.get(handle.deployment_name, ()))
    # Handles connect to the controller on first use; `options` is the public way to use one
    # without sending anything.
    handle.options(method_name="check_health")


def _to_endpoint(replica: RunningReplica) -> ReplicaEndpoint:
    metadata = replica.replica_metadata
    return ReplicaEndpoint(
        id=ReplicaId(replica.replica_id.unique_id),
        url=str(metadata.get("url", "")),
        node_id=str(replica.node_id),
        pid=int(metadata.get("pid", 0)),
    )
