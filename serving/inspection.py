"""Asking a running platform how it is: Serve, the gateway processes, and a gateway's fleet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import aiohttp

from serving.adapters import serve_control
from serving.adapters.deployment_state import DeploymentTarget
from serving.adapters.secrets_file import read_secret
from serving.adapters.state_paths import StatePaths
from serving.core.wire import EXPLAIN_PATH, FLEET_PATH, INTERNAL_TOKEN
from serving.errors import ConfigError
from serving.status import (
    Views,
    clock_problems,
    compose_rollout,
    compose_status,
    num_current,
)

_GATEWAY_TIMEOUT_S = 5.0
_CLOCK_PERIOD_S = 60.0

logger = logging.getLogger("galerne")


class Inspector:
    """Looks at the platform on this machine's Ray cluster, behind one endpoint."""

    def __init__(self, endpoint: str, paths: StatePaths) -> None:
        self._endpoint = endpoint
        self._paths = paths

    async def status(self, models: list[str]) -> dict[str, Any]:
        """The document of `galerne status`."""
        return compose_status(self._endpoint, models, await self._views())

    async def rollout(self, targets: Mapping[str, DeploymentTarget]) -> dict[str, Any]:
        """Whether the targets are reached: `done`, `message`, `failure`, `remark`."""
        applications = await asyncio.to_thread(serve_control.application_states)
        gateways, fleet = await asyncio.gather(self._gateways(), self._fleet())
        return compose_rollout(applications, targets, num_current(targets, gateways, fleet))

    async def route(self, question: Any) -> dict[str, Any]:
        """What a gateway makes of a question about routing.

        Raises:
            ConfigError: it refuses it, or there is none.
        """
        try:
            async with (
                self._session() as session,
                session.post(self._endpoint + EXPLAIN_PATH, json=question) as answer,
            ):
                found: dict[str, Any] = await answer.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ConfigError(
                "no gateway answers", code="gateway_unavailable", hint="see `galerne status`"
            ) from error
        if answer.status != 200:
            refusal = found["error"]
            raise ConfigError(refusal["message"], code=refusal["code"], param=refusal.get("param"))
        return found

    async def watch_clocks(self) -> None:
        """Log gateways whose clocks are apart from this machine's, once each, until cancelled."""
        known: dict[str, str] = {}
        while True:
            await asyncio.sleep(_CLOCK_PERIOD_S)
            try:
                found = clock_problems(await self._gateways())
            except Exception:
                logger.exception("the gateways' clocks cannot be read")
                continue
            for gateway in found.keys() - known.keys():
                logger.warning("gateway %s: %s", gateway, found[gateway])
            known = found

    async def _views(self) -> Views:
        states, gateways, fleet, autoscaler = await asyncio.gather(
            asyncio.to_thread(serve_control.deployment_states),
            self._gateways(),
            self._fleet(),
            asyncio.to_thread(serve_control.autoscaler),
        )
        scaling = autoscaler["scaling"] if autoscaler else {}
        return Views(states=states, gateways=gateways, fleet=fleet, scaling=scaling)

    async def _gateways(self) -> list[dict[str, Any]]:
        return await asyncio.to_thread(serve_control.gateway_processes)

    async def _fleet(self) -> dict[str, Any] | None:
        """What a gateway sees, or `None` while there is none."""
        try:
            async with (
                self._session() as session,
                session.get(self._endpoint + FLEET_PATH) as answer,
            ):
                if answer.status != 200:
                    return None
                fleet: dict[str, Any] = await answer.json()
                return fleet
        except (aiohttp.ClientError, TimeoutError):
            return None

    def _session(self) -> aiohttp.ClientSession:
        token = read_secret(self._paths.internal_token_file)
        return aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_GATEWAY_TIMEOUT_S),
            headers={INTERNAL_TOKEN.decode(): token},
        )
