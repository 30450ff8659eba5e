"""The Ray Serve deployment that runs one gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.gateway.api import Gateway

Assemble = Callable[[], Awaitable["Gateway"]]


class GatewayReplica:
    """One gateway process behind HAProxy.

    Args:
        assemble: builds the gateway in this process.
    """

    async def __init__(self, assemble: Assemble) -> None:  # type: ignore[misc]  # Serve awaits it
        self._gateway = await assemble()

    def __serve_build_asgi_app__(self) -> Gateway:
        return self._gateway
