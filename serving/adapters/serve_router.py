"""The request router that Serve runs in each gateway process: it only listens.

Serve pickles this module by value (ray 2.60.0, serve/config.py), so its globals are copies in the
gateway: nothing here may hold state. `replica_directory` does.
"""

from __future__ import annotations

from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from serving.adapters import replica_directory
from serving.core.types import ReplicaEndpoint, ReplicaId


class FleetRouter(RequestRouter):  # type: ignore[misc]  # ray ships no types
    """Reports every change of the running replicas; routes the rare handle call to any of them."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        endpoints = tuple(to_endpoint(replica) for replica in replicas)
        replica_directory.publish(self._deployment_id.name, endpoints)

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        del pending_request
        return [candidate_replicas]


def router_config() -> RequestRouterConfig:
    """What a deployment needs for `replica_directory.watch_replicas` to work on it."""
    return RequestRouterConfig(request_router_class=f"{__name__}:{FleetRouter.__name__}")


def to_endpoint(replica: RunningReplica) -> ReplicaEndpoint:
    """A replica's address from what it published of itself."""
    metadata = replica.replica_metadata
    return ReplicaEndpoint(
        id=ReplicaId(replica.replica_id.unique_id),
        url=str(metadata["url"]),
        metrics_url=str(metadata["metrics_url"]),
        node_id=str(replica.node_id),
        pid=int(metadata["pid"]),
        version=str(metadata["version"]),
    )
