"""The composition root: the only place where adapters meet the gateway and the engines."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import SystemRandom
from typing import Any

import aiohttp
from ray import serve
from ray.serve.handle import DeploymentHandle

from serving import __version__
from serving.adapters.access_log import AccessLog
from serving.adapters.key_store import KeyCache, utc_now
from serving.adapters.replica_directory import watch_replicas
from serving.adapters.secrets_file import read_secret
from serving.adapters.serve_router import router_config
from serving.adapters.state_paths import StatePaths
from serving.adapters.weights import check_adapters, resolve_weights
from serving.core.types import ModelId, Principal
from serving.engine.deployment import EngineReplica, EngineSpec
from serving.gateway.api import Gateway, GatewayParts
from serving.gateway.catalog import Catalog
from serving.gateway.deployment import GatewayReplica
from serving.gateway.engine_client import EngineClient
from serving.gateway.exchange import Headers
from serving.gateway.fleet import Fleet
from serving.gateway.openapi import published
from serving.gateway.relay import Relay
from serving.planner.placement import plan_placement, to_deployment_options
from serving.settings import ModelSettings, Settings
from serving.tenancy.access import authenticate, bearer_token

APP_NAME = "galerne"
GATEWAY = "gateway"

_IDLE_CONNECTION_S = 60.0
_HEALTH_CHECK_PERIOD_S = 2.0
_DRAIN_MARGIN_S = 30.0


@dataclass(frozen=True, slots=True)
class GatewaySpec:
    """What every gateway replica is built from."""

    settings: Settings
    paths: StatePaths
    created: int


def engine_deployment_name(model_id: str) -> str:
    """The Serve deployment of a model."""
    return f"engine:{model_id}"


def build_application(settings: Settings, paths: StatePaths) -> serve.Application:
    """The whole platform as one Serve application: an engine deployment per model, and gateways."""
    spec = GatewaySpec(settings, paths, created=int(time.time()))
    engines = {
        model_id: _engine_application(model_id, model, paths)
        for model_id, model in settings.models.items()
    }
    gateway = serve.deployment(serve.ingress()(GatewayReplica)).options(
        name=GATEWAY,
        num_replicas=settings.gateway.replicas,
        max_ongoing_requests=settings.gateway.max_concurrent_requests,
        max_queued_requests=settings.gateway.max_concurrent_requests,
        ray_actor_options={"num_cpus": 0},
        logging_config={"enable_access_log": False},
        max_surge_percent=100,
        graceful_shutdown_timeout_s=_longest_drain_s(settings),
    )
    return gateway.bind(partial(assemble_gateway, spec), engines)


def _engine_application(
    model_id: str, model: ModelSettings, paths: StatePaths
) -> serve.Application:
    placement = plan_placement(model.engine, resources=model.resources)
    spec = EngineSpec(
        model_id=ModelId(model_id),
        model=model,
        resolve_weights=partial(_model_folder, model, paths),
        read_token=partial(read_secret, paths.internal_token_file),
    )
    deployment = serve.deployment(EngineReplica).options(
        name=engine_deployment_name(model_id),
        num_replicas=model.replicas,
        max_ongoing_requests=model.max_concurrent_requests,
        request_router_config=router_config(),
        logging_config={"enable_access_log": False},
        max_surge_percent=100,
        health_check_period_s=_HEALTH_CHECK_PERIOD_S,
        graceful_shutdown_timeout_s=model.drain_timeout_s + _DRAIN_MARGIN_S,
        **to_deployment_options(placement),
    )
    return deployment.bind(spec)


def _model_folder(model: ModelSettings, paths: StatePaths) -> Path:
    check_adapters(model.adapters)
    return resolve_weights(model.weights, paths)


def _longest_drain_s(settings: Settings) -> float:
    return max(model.drain_timeout_s for model in settings.models.values()) + _DRAIN_MARGIN_S


async def assemble_gateway(
    spec: GatewaySpec, engines: Mapping[str, DeploymentHandle[Any]]
) -> Gateway:
    """Build one gateway in this process and connect it to Serve's replica directory."""
    settings = spec.settings.gateway
    token = read_secret(spec.paths.internal_token_file)
    session = _client_session(settings.engine_connect_timeout_s)
    client = EngineClient(session, token=token)
    fleet = Fleet([ModelId(model_id) for model_id in engines], rng=SystemRandom())
    for model_id, handle in engines.items():
        watch_replicas(handle, partial(fleet.update, ModelId(model_id)))
    keys = KeyCache(spec.paths.key_file, refresh_s=settings.key_refresh_s, clock=time.monotonic)
    gateway = Gateway(
        GatewayParts(
            settings=settings,
            catalog=Catalog(
                spec.settings.models,
                created=spec.created,
                load_openapi=partial(_load_openapi, fleet, client, spec.settings),
            ),
            fleet=fleet,
            relay=Relay(session, token=token, settings=settings),
            authenticate=partial(_authenticate, keys),
            internal_token=token,
            fleet_state=partial(_fleet_state, fleet, client, list(engines)),
            access_log=AccessLog(spec.paths.log_dir / f"gateway-{os.getpid()}.jsonl").write,
        )
    )
    gateway.background = asyncio.create_task(keys.run())
    return gateway


def _client_session(connect_timeout_s: float) -> aiohttp.ClientSession:
    """Pooled connections to engines, bytes as they come, no limit of its own on their number."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_CONNECTION_S),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s),
        auto_decompress=False,
        skip_auto_headers=["User-Agent", "Accept", "Accept-Encoding"],
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _authenticate(keys: KeyCache, headers: Headers) -> Principal:
    return authenticate(bearer_token(headers), keys.lookup, utc_now())


async def _load_openapi(fleet: Fleet, client: EngineClient, settings: Settings) -> dict[str, Any]:
    model = ModelId(next(iter(settings.models)))
    replica = await fleet.choose(model, exclude=(), wait_s=settings.gateway.no_replica_wait_s)
    return published(await client.openapi(replica.url), version=__version__)


async def _fleet_state(fleet: Fleet, client: EngineClient, models: list[str]) -> dict[str, Any]:
    """Every running engine replica this gateway sees, by model, with the state it tells."""
    engines = {}
    for model_id in models:
        endpoints = fleet.endpoints(ModelId(model_id))
        states = await client.states(endpoints)
        engines[model_id] = [
            {**asdict(endpoint), "state": state}
            for endpoint, state in zip(endpoints, states, strict=True)
        ]
    return {"models": engines}
