"""The Ray Serve deployment that runs one gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from serving.gateway.api import Gateway

Assemble = Callable[[Mapping[str, "DeploymentHandle[Any]"]], Awaitable["Gateway"]]


class GatewayReplica:
    """One gateway process behind HAProxy.

    Args:
        assemble: builds the gateway in this process from the handles of the engine deployments.
        engines: a handle per model.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, assemble: Assemble, engines: Mapping[str, DeploymentHandle[Any]]
    ) -> None:
        self._gateway = await assemble(engines)

    def __serve_build_asgi_app__(self) -> Gateway:
        return self._gateway
