"""Building one gateway: its adapters, and what connects it to Ray Serve and to the engines."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
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
from serving.adapters.descriptors import DescriptorGuard
from serving.adapters.key_records import utc_now
from serving.adapters.key_store import KeyCache
from serving.adapters.kube.leaving_watch import watch_own_cluster
from serving.adapters.replica_directory import watch_replicas
from serving.adapters.secrets_file import read_secret
from serving.adapters.state_paths import StatePaths
from serving.adapters.weights import tokenizer_folder
from serving.core.types import ModelId, Principal, ReplicaEndpoint
from serving.engine.listener import HttpListener
from serving.errors import ConfigError
from serving.gateway.alarm import Alarm
from serving.gateway.api import Gateway, GatewayParts
from serving.gateway.catalog import Catalog
from serving.gateway.connections import Connections
from serving.gateway.engine_client import EngineClient
from serving.gateway.exchange import Headers
from serving.gateway.fleet import Fleet
from serving.gateway.load_metrics import LoadMetrics
from serving.gateway.metrics import GatewayMetrics
from serving.gateway.openapi import published
from serving.gateway.pool_settings import PoolSettings, QueueLimits
from serving.gateway.profiles import Profiler
from serving.gateway.relay import Relay
from serving.gateway.replica_states import ReplicaStates
from serving.gateway.slo import SloMetrics
from serving.planner.serve_config import engine_name
from serving.protocol.metrics_page import MetricsPage
from serving.rendering.model_tokenizer import ModelTokenizer
from serving.rendering.tokenizer import PieceTokenizer, Tokenizer
from serving.routing.policies import (
    LeastTokens,
    Policy,
    PowerOfTwo,
    RoundRobin,
    Session,
    kv_aware,
)
from serving.routing.snapshots import RequestProfile
from serving.settings.gateway import GatewaySettings
from serving.settings.model import ModelSettings
from serving.settings.platform import Settings
from serving.settings.routing import RoutingSettings
from serving.tenancy.access import authenticate, bearer_token
from serving.tenancy.cache_salt import CacheSalts
from serving.tenancy.classes import TenantClasses
from serving.tenancy.shared_bytes import SharedBytes

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class GatewaySpec:
    """What every gateway replica is built from."""

    settings: Settings
    paths: StatePaths
    created: int
    version: str


async def assemble_gateway(spec: GatewaySpec) -> Gateway:
    """Build one gateway in this process and connect it to Serve's replica directory."""
    settings = spec.settings.gateway
    engines = {name: _handle(name) for name in spec.settings.models}
    token = read_secret(spec.paths.internal_token_file)
    connections = Connections(settings.engine_connect_timeout_s)
    client = EngineClient(connections, token=token)
    metrics_token = read_secret(spec.paths.metrics_token_file)
    states = {
        ModelId(name): ReplicaStates(
            connections,
            token=token,
            max_entries=settings.max_index_entries,
            follows_routing=spec.settings.models[name].routing.policy == "prefix_approx",
            now=time.monotonic,
            rng=SystemRandom(),
        )
        for name in engines
    }
    fleet = Fleet(
        {
            ModelId(name): PoolSettings(
                model.request_limit,
                _policy(model.routing),
                model.routing.warm_up_s,
                states[ModelId(name)],
                _queue_limits(settings, model),
            )
            for name, model in spec.settings.models.items()
        },
        rng=SystemRandom(),
        now=time.monotonic,
    )
    profilers = {
        model: Profiler(
            followed,
            await asyncio.to_thread(_tokenizer, spec.settings.models[model], spec.paths),
            secret=token.encode(),
        )
        for model, followed in states.items()
    }
    for model_id, handle in engines.items():
        model = ModelId(model_id)
        states[model].on_report = partial(fleet.heard, model)
        watch_replicas(handle, partial(_replicas_changed, fleet, states[model], model))
    keys = KeyCache(spec.paths.key_file, refresh_s=settings.key_refresh_s, clock=time.monotonic)
    models = {ModelId(name): model for name, model in spec.settings.models.items()}
    metrics = GatewayMetrics(REGISTRY, models, TenantClasses(spec.settings.tenancy.classes))
    slos = SloMetrics({name: model.slo for name, model in models.items()})
    REGISTRY.register(slos)
    bodies = SharedBytes(settings.limits.max_held_bytes)
    REGISTRY.register(LoadMetrics(models, fleet, bodies))
    alarm = Alarm(_wake, fleet.is_missing)
    fleet.tell(on_sent=metrics.sent, on_missing=alarm.ring, on_wanted=metrics.wanted)
    for model, profiler in profilers.items():
        profiler.on_unread = partial(metrics.prompt_unread, model)
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
            profilers=profilers,
            cache_salts=CacheSalts(token.encode(), spec.settings.tenancy.cache_groups),
            relay=Relay(connections, token=token, settings=settings),
            authenticate=partial(_authenticate, keys),
            internal_token=token,
            fleet_state=partial(_fleet_state, fleet, client, list(engines)),
            metrics_token=metrics_token,
            metric_targets=partial(_metric_targets, fleet, client, list(engines)),
            has_room=descriptors.has_room,
            bodies=bodies,
            access_log=access_log.write,
            metrics=metrics,
            slos=slos.counts,
        )
    )
    leaving = watch_own_cluster(partial(_avoid, fleet, asyncio.get_running_loop()))
    if leaving is not None:
        leaving.start()
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
                *fleet.problems(),
                *(leaving.problems() if leaving else ()),
                *(problem for followed in states.values() for problem in followed.problems()),
            ],
            drain=gateway.drain,
        )
    )
    return gateway


def _avoid(fleet: Fleet, loop: asyncio.AbstractEventLoop, hosts: Mapping[str, str]) -> None:
    """Called by the threads that watch the cluster."""
    loop.call_soon_threadsafe(fleet.avoid_hosts, hosts)


def _handle(model: str) -> DeploymentHandle[Any]:
    """The model's engines; their application may come up later than this gateway."""
    name = engine_name(model)
    return serve.get_deployment_handle(name, app_name=name, _check_exists=False)


def _tokenizer(model: ModelSettings, paths: StatePaths) -> Tokenizer | None:
    """What prompts are read with, if the model's policy asks for it and its files allow it."""
    if model.routing.policy not in ("kv_aware", "prefix_approx"):
        return None
    if model.weights is None:
        return PieceTokenizer()
    try:
        return ModelTokenizer(tokenizer_folder(model.weights, paths))
    except ConfigError as error:
        logger.warning("prompts are not read, so replicas are chosen by load alone: %s", error)
        return None


def _policy(routing: RoutingSettings) -> Policy:
    match routing.policy:
        case "kv_aware" | "prefix_approx":
            return kv_aware(routing.weights, node_id=ray.get_runtime_context().get_node_id())
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


def _queue_limits(settings: GatewaySettings, model: ModelSettings) -> QueueLimits:
    scaling = model.scaling
    sleeps = scaling is not None and scaling.min_replicas == 0
    return QueueLimits(
        max_queued=settings.max_queued_requests,
        queue_timeout_s=settings.queue_timeout_s,
        no_replica_wait_s=(
            scaling.wake_wait_s if scaling and sleeps else settings.no_replica_wait_s
        ),
        fresh_s=model.slo.ttft_s / 2,  # the other half is for the prompt
    )


def _serve_metrics(token: str) -> HttpListener:
    """A listener for Prometheus, on a free port of this node's address."""
    listener = HttpListener(MetricsPage(REGISTRY, token=token), host=ray.util.get_node_ip_address())
    listener.start()
    return listener


async def _metric_targets(
    fleet: Fleet, client: EngineClient, models: list[str]
) -> list[dict[str, Any]]:
    """Everything to scrape, in the format of Prometheus' HTTP service discovery."""
    gateways, autoscaler = await asyncio.gather(
        asyncio.to_thread(serve_control.gateway_processes),
        asyncio.to_thread(serve_control.autoscaler),
    )
    targets = [
        _metric_target(gateway["metrics_url"], component="gateway", replica=gateway["id"], model="")
        for gateway in gateways
        if gateway["metrics_url"]
    ]
    if autoscaler is not None:
        url = autoscaler["metrics_url"]
        targets.append(_metric_target(url, component="autoscaler", replica="controller", model=""))
    return targets + [
        _metric_target(
            endpoint.metrics_url, component="engine", replica=endpoint.id, model=model_id
        )
        for model_id in models
        for endpoint in (
            *fleet.endpoints(ModelId(model_id)),
            *await _still_finishing(fleet, client, ModelId(model_id)),
        )
    ]


async def _still_finishing(
    fleet: Fleet, client: EngineClient, model: ModelId
) -> list[ReplicaEndpoint]:
    """Replicas that drain: what their last requests take is counted when those end."""
    leaving = fleet.leaving(model)
    states = await client.states(leaving)
    for endpoint, state in zip(leaving, states, strict=True):
        if state is None:
            fleet.has_left(model, endpoint.id)
    return [endpoint for endpoint, state in zip(leaving, states, strict=True) if state is not None]


def _metric_target(url: str, *, component: str, replica: str, model: str) -> dict[str, Any]:
    labels = {"component": component, "replica": replica, "deployed_model": model}
    return {"targets": [url.removeprefix("http://")], "labels": labels}


async def _wake(model: ModelId) -> None:
    await asyncio.to_thread(serve_control.wake, model)


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
