"""The composition root: the platform as one Serve application, made of its settings.

What happens inside of a gateway process is composed in `gateway_assembly.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from pathlib import Path

from ray import serve

from serving.adapters.deployment_state import (
    GATEWAY,
    DeploymentTarget,
    engine_deployment_name,
)
from serving.adapters.secrets_file import read_secret
from serving.adapters.serve_control import own_order_time
from serving.adapters.serve_router import router_config
from serving.adapters.state_paths import StatePaths
from serving.adapters.weights import check_adapters, resolve_weights
from serving.core.start_record import StartRecord
from serving.core.types import ModelId
from serving.engine.deployment import Engine, EngineReplica, EngineSpec
from serving.engine.vllm_launch import launch_vllm
from serving.errors import ConfigError
from serving.gateway.deployment import GatewayReplica
from serving.gateway_assembly import GatewaySpec, assemble_gateway
from serving.planner.placement import plan_placement, to_deployment_options
from serving.scaling_assembly import autoscaling_options
from serving.settings import ModelSettings, ScalingSettings, Settings
from serving.simulator.launch import launch_simulator

_HEALTH_CHECK_PERIOD_S = 2.0
_HEALTH_CHECK_TIMEOUT_S = 10.0
"""Serve gives a replica up that does not answer three checks in a row."""
_DRAIN_MARGIN_S = 30.0
_SCALES = {*ScalingSettings.model_fields} - {"min_replicas", "wake_wait_s"}
"""What gateways need not know of a model's scaling."""


def build_application(
    settings: Settings, paths: StatePaths, *, created: int, running: Collection[str]
) -> serve.Application:
    """The whole platform as one Serve application: an engine deployment per model, and gateways.

    Args:
        created: Unix time that the model list shows.
        running: deployments that there are already; scaled ones keep their replicas.

    A deployment whose version stays the same keeps its replicas when the application is deployed
    again, so that a change of `replicas` alone restarts nothing.
    """
    version = _version(settings, paths)
    spec = GatewaySpec(settings, paths, created=created, version=version)
    engines = {
        model_id: _engine_application(
            model_id, settings, paths, is_first=engine_deployment_name(model_id) not in running
        )
        for model_id in settings.models
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
    model_id: str, settings: Settings, paths: StatePaths, *, is_first: bool
) -> serve.Application:
    model = settings.models[model_id]
    placement = plan_placement(model.engine, resources=model.resources)
    version = _version(model, paths)
    spec = EngineSpec(
        model_id=ModelId(model_id),
        model=model,
        launch=_launcher(ModelId(model_id), model, paths),
        ordered_at=own_order_time,
        read_token=partial(read_secret, paths.internal_token_file),
        read_metrics_token=partial(read_secret, paths.metrics_token_file),
        version=version,
    )
    deployment = serve.deployment(EngineReplica).options(
        name=engine_deployment_name(model_id),
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
        **autoscaling_options(model_id, settings, paths, is_first=is_first),
    )
    return deployment.bind(spec)


def deployment_targets(settings: Settings, paths: StatePaths) -> dict[str, DeploymentTarget]:
    """What Serve is to reach, by deployment, when it has been given these settings."""
    engines = {
        engine_deployment_name(model_id): _target(model, _version(model, paths))
        for model_id, model in settings.models.items()
    }
    num_gateways = settings.gateway.replicas
    gateway = DeploymentTarget(num_gateways, num_gateways, _version(settings, paths))
    return {**engines, GATEWAY: gateway}


def _target(model: ModelSettings, version: str) -> DeploymentTarget:
    if model.scaling is None:
        return DeploymentTarget(model.replicas, model.replicas, version)
    return DeploymentTarget(model.scaling.min_replicas, model.scaling.max_replicas, version)


def _launcher(
    model_id: ModelId, model: ModelSettings, paths: StatePaths
) -> Callable[[bytes, StartRecord], Awaitable[Engine]]:
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
            # Gateways route and count, the controller scales: neither restarts an engine.
            return part.model_dump(mode="json", exclude={"replicas", "scaling", "routing", "slo"})
        case Settings():
            models = {
                name: model.model_dump(mode="json", exclude={"replicas": True, "scaling": _SCALES})
                for name, model in part.models.items()
            }
            gateway = part.gateway.model_dump(mode="json", exclude={"replicas"})
            return {"models": models, "gateway": gateway, "tenancy": part.tenancy.model_dump()}
        case _:
            return part


def _longest_drain_s(settings: Settings) -> float:
    return max(model.drain_timeout_s for model in settings.models.values()) + _DRAIN_MARGIN_S
