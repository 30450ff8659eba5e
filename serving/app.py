"""The composition root: the only place where adapters meet the gateway and the engines."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import SystemRandom
from typing import Any

import ray
from prometheus_client import REGISTRY
from ray import serve
from ray.serve.handle import DeploymentHandle

from serving import __version__
from serving.adapters import serve_control
from serving.adapters.access_log import AccessLog
from serving.adapters.announcement import Announcement, announce
from serving.adapters.deployment_state import (
    APP_NAME,
    GATEWAY,
    DeploymentTarget,
    engine_deployment_name,
)
from serving.adapters.descriptors import DescriptorGuard
from serving.adapters.key_store import KeyCache, utc_now
from serving.adapters.replica_directory import watch_replicas
from serving.adapters.secrets_file import read_secret
from serving.adapters.serve_router import router_config
from serving.adapters.state_paths import StatePaths
from serving.adapters.weights import check_adapters, resolve_weights
from serving.core.types import ModelId, Principal, ReplicaEndpoint
from serving.engine.deployment import Engine, EngineReplica, EngineSpec
from serving.engine.listener import HttpListener
from serving.engine.vllm_launch import launch_vllm
from serving.errors import ConfigError
from serving.gateway.api import Gateway, GatewayParts
from serving.gateway.catalog import Catalog
from serving.gateway.connections import Connections
from serving.gateway.deployment import GatewayReplica
from serving.gateway.engine_client import EngineClient
from serving.gateway.exchange import Headers
from serving.gateway.fleet import Fleet
from serving.gateway.metrics import GatewayMetrics
from serving.gateway.openapi import published
from serving.gateway.relay import Relay
from serving.gateway.replica_pool import PoolSettings, QueueLimits
from serving.gateway.replica_states import ReplicaStates
from serving.planner.placement import plan_placement, to_deployment_options
from serving.protocol.metrics_page import MetricsPage
from serving.routing.policies import LeastTokens, Policy, PowerOfTwo, RoundRobin, Session
from serving.routing.snapshots import RequestProfile
from serving.settings import GatewaySettings, ModelSettings, RoutingSettings, Settings
from serving.simulator.launch import launch_simulator
from serving.tenancy.access import authenticate, bearer_token

_HEALTH_CHECK_PERIOD_S = 2.0
_HEALTH_CHECK_TIMEOUT_S = 10.0
"""Serve gives a replica up that does not answer three checks in a row."""
_DRAIN_MARGIN_S = 30.0


@dataclass(frozen=True, slots=True)
class GatewaySpec:
    """What every gateway replica is built from."""

    settings: Settings
    paths: StatePaths
    created: int
    version: str


def build_application(settings: Settings, paths: StatePaths, *, created: int) -> serve.Application:
    """The whole platform as one Serve application: an engine deployment per model, and gateways.

    Args:
        created: Unix time that the model list shows.

    A deployment whose version stays the same keeps its replicas when the application is deployed
    again, so that a change of `replicas` alone restarts nothing.
    """
    version = _version(settings, paths)
    spec = GatewaySpec(settings, paths, created=created, version=version)
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
        health_check_period_s=_HEALTH_CHECK_PERIOD_S,
        health_check_timeout_s=_HEALTH_CHECK_TIMEOUT_S,
        graceful_shutdown_timeout_s=_longest_drain_s(settings),
        version=version,
        _internal=True,
    )
    return gateway.bind(partial(assemble_gateway, spec), engines)


def _engine_application(
    model_id: str, model: ModelSettings, paths: StatePaths
) -> serve.Application:
    placement = plan_placement(model.engine, resources=model.resources)
    version = _version(model, paths)
    spec = EngineSpec(
        model_id=ModelId(model_id),
        model=model,
        launch=_launcher(ModelId(model_id), model, paths),
        read_token=partial(read_secret, paths.internal_token_file),
        read_metrics_token=partial(read_secret, paths.metrics_token_file),
        version=version,
    )
    deployment = serve.deployment(EngineReplica).options(
        name=engine_deployment_name(model_id),
        num_replicas=model.replicas,
        max_ongoing_requests=model.max_concurrent_requests,
        request_router_config=router_config(),
        logging_config={"enable_access_log": False},
        max_surge_percent=100,
        health_check_period_s=_HEALTH_CHECK_PERIOD_S,
        health_check_timeout_s=_HEALTH_CHECK_TIMEOUT_S,
        graceful_shutdown_timeout_s=model.drain_timeout_s + _DRAIN_MARGIN_S,
        version=version,
        _internal=True,
        **to_deployment_options(placement),
    )
    return deployment.bind(spec)


def deployment_targets(settings: Settings, paths: StatePaths) -> dict[str, DeploymentTarget]:
    """What Serve is to reach, by deployment, when it has been given these settings."""
    engines = {
        engine_deployment_name(model_id): DeploymentTarget(model.replicas, _version(model, paths))
        for model_id, model in settings.models.items()
    }
    gateway = DeploymentTarget(settings.gateway.replicas, _version(settings, paths))
    return {**engines, GATEWAY: gateway}


def _launcher(
    model_id: ModelId, model: ModelSettings, paths: StatePaths
) -> Callable[[bytes], Awaitable[Engine]]:
    """What starts the model's engine in a replica."""
    find_weights = partial(_model_folder, model, paths)
    if model.simulator is None:
        return partial(launch_vllm, model_id, model, find_weights)
    return partial(launch_simulator, model_id, model, find_weights if model.weights else None)


def _model_folder(model: ModelSettings, paths: StatePaths) -> Path:
    if model.weights is None:
        raise ConfigError("weights is missing", code="setting_invalid", param="weights")
    check_adapters(model.adapters)
    return resolve_weights(model.weights, paths)


def _version(*parts: object) -> str:
    """A name for what the replicas of a deployment are built from, numbers of replicas aside.

    Without one Serve takes a random name and restarts every replica at each deployment. Its public
    API has no such argument any more (ray 2.60.0, serve/deployment.py).
    """
    text = repr([_without_replicas(part) for part in parts])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without_replicas(part: object) -> object:
    match part:
        case ModelSettings():
            # Routing is the gateways' business: another policy restarts no engine.
            return part.model_dump(mode="json", exclude={"replicas", "routing"})
        case Settings():
            models = {
                name: model.model_dump(mode="json", exclude={"replicas"})
                for name, model in part.models.items()
            }
            gateway = part.gateway.model_dump(mode="json", exclude={"replicas"})
            return {"models": models, "gateway": gateway}
        case _:
            return part


def _longest_drain_s(settings: Settings) -> float:
    return max(model.drain_timeout_s for model in settings.models.values()) + _DRAIN_MARGIN_S


async def assemble_gateway(
    spec: GatewaySpec, engines: Mapping[str, DeploymentHandle[Any]]
) -> Gateway:
    """Build one gateway in this process and connect it to Serve's replica directory."""
    settings = spec.settings.gateway
    token = read_secret(spec.paths.internal_token_file)
    connections = Connections(settings.engine_connect_timeout_s)
    client = EngineClient(connections, token=token)
    metrics_token = read_secret(spec.paths.metrics_token_file)
    states = {
        ModelId(name): ReplicaStates(
            connections,
            token=token,
            max_entries=settings.max_index_entries,
            now=time.monotonic,
            rng=SystemRandom(),
        )
        for name in engines
    }
    fleet = Fleet(
        {
            ModelId(name): PoolSettings(
                model.max_concurrent_requests,
                _policy(model.routing),
                model.routing.warm_up_s,
                states[ModelId(name)],
            )
            for name, model in spec.settings.models.items()
        },
        limits=_queue_limits(settings),
        rng=SystemRandom(),
        now=time.monotonic,
    )
    for model_id, handle in engines.items():
        model = ModelId(model_id)
        states[model].on_report = partial(fleet.heard, model)
        watch_replicas(handle, partial(_replicas_changed, fleet, states[model], model))
    keys = KeyCache(spec.paths.key_file, refresh_s=settings.key_refresh_s, clock=time.monotonic)
    metrics = GatewayMetrics(
        REGISTRY,
        [ModelId(name) for name in engines],
        num_in_flight=fleet.num_in_flight,
        num_queued=fleet.num_queued,
    )
    descriptors = DescriptorGuard(time.monotonic)
    access_log = AccessLog(
        spec.paths.log_dir / f"gateway-{os.getpid()}.jsonl", on_lost=metrics.lines_lost
    )
    gateway = Gateway(
        GatewayParts(
            settings=settings,
            catalog=Catalog(
                spec.settings.models,
                created=spec.created,
                load_openapi=partial(_load_openapi, fleet, client, spec.settings),
            ),
            fleet=fleet,
            relay=Relay(connections, token=token, settings=settings),
            authenticate=partial(_authenticate, keys),
            internal_token=token,
            fleet_state=partial(_fleet_state, fleet, client, list(engines)),
            metrics_token=metrics_token,
            metric_targets=partial(_metric_targets, fleet, list(engines)),
            has_room=descriptors.has_room,
            access_log=access_log.write,
            record=metrics.record,
        )
    )
    listener = _serve_metrics(metrics_token)
    gateway.background += [
        asyncio.create_task(keys.run()),
        asyncio.create_task(descriptors.watch()),
        listener,
    ]
    announce(
        Announcement(
            metrics_url=listener.url,
            version=spec.version,
            problems=lambda: [
                *access_log.problems(),
                *descriptors.problems(),
                *(problem for followed in states.values() for problem in followed.problems()),
            ],
            drain=gateway.drain,
        )
    )
    return gateway


def _policy(routing: RoutingSettings) -> Policy:
    match routing.policy:
        case "least_tokens":
            return LeastTokens()
        case "power_of_two":
            return PowerOfTwo()
        case "round_robin":
            return RoundRobin()
        case "session":
            return Session()


def _replicas_changed(
    fleet: Fleet, states: ReplicaStates, model: ModelId, endpoints: Sequence[ReplicaEndpoint]
) -> None:
    states.follow(endpoints)
    fleet.update(model, endpoints)


def _queue_limits(settings: GatewaySettings) -> QueueLimits:
    return QueueLimits(
        max_queued=settings.max_queued_requests,
        queue_timeout_s=settings.queue_timeout_s,
        no_replica_wait_s=settings.no_replica_wait_s,
    )


def _serve_metrics(token: str) -> HttpListener:
    """A listener for Prometheus, on a free port of this node's address."""
    listener = HttpListener(MetricsPage(REGISTRY, token=token), host=ray.util.get_node_ip_address())
    listener.start()
    return listener


async def _metric_targets(fleet: Fleet, models: list[str]) -> list[dict[str, Any]]:
    """Everything to scrape, in the format of Prometheus' HTTP service discovery."""
    gateways = await asyncio.to_thread(serve_control.replica_processes, APP_NAME, GATEWAY)
    targets = [
        _metric_target(gateway["metrics_url"], component="gateway", replica=gateway["id"], model="")
        for gateway in gateways
        if gateway["metrics_url"]
    ]
    return targets + [
        _metric_target(
            endpoint.metrics_url, component="engine", replica=endpoint.id, model=model_id
        )
        for model_id in models
        for endpoint in fleet.endpoints(ModelId(model_id))
    ]


def _metric_target(url: str, *, component: str, replica: str, model: str) -> dict[str, Any]:
    labels = {"component": component, "replica": replica, "deployed_model": model}
    return {"targets": [url.removeprefix("http://")], "labels": labels}


def _authenticate(keys: KeyCache, headers: Headers) -> Principal:
    return authenticate(bearer_token(headers), keys.lookup, utc_now())


async def _load_openapi(fleet: Fleet, client: EngineClient, settings: Settings) -> dict[str, Any]:
    model = ModelId(next(iter(settings.models)))
    with fleet.ticket(model, RequestProfile(1, 0)) as ticket:
        replica = ticket.take() or await ticket.wait()
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
