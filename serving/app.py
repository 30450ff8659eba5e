"""The composition root: the platform as Serve applications, made of its settings.

What happens inside of a gateway process is composed in `gateway_assembly.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ray import serve

from serving.adapters.deployment_state import DeploymentTarget
from serving.adapters.model_configs import complete_settings
from serving.adapters.secrets_file import read_secret
from serving.adapters.serve_control import own_order_time
from serving.adapters.serve_router import router_config
from serving.adapters.state_paths import StatePaths
from serving.adapters.weights import check_adapters, resolve_weights
from serving.core.start_record import StartRecord
from serving.core.types import ModelId
from serving.engine.deployment import Engine, EngineReplica, EngineSpec, ModelRoot
from serving.engine.vllm_launch import launch_vllm
from serving.errors import ConfigError
from serving.gateway.deployment import GatewayReplica
from serving.gateway_assembly import GatewaySpec, assemble_gateway
from serving.planner.placement import plan_placement, pool_share, to_deployment_options
from serving.planner.serve_config import (
    APP_NAME,
    GATEWAY,
    ROOT,
    engine_name,
    engine_part,
    gateway_part,
)
from serving.scaling_assembly import autoscaling_options
from serving.settings.model import ModelSettings
from serving.settings.platform import Settings
from serving.simulator.launch import launch_simulator

_HEALTH_CHECK_PERIOD_S = 2.0
_HEALTH_CHECK_TIMEOUT_S = 10.0
"""Serve gives a replica up that does not answer three checks in a row."""
_MAX_SERVE_QUEUE = 256
"""Requests that a gateway may have accepted and not yet begun: with 0 Serve refuses all. They wait
first come first served, so there are to be few."""
_DRAIN_MARGIN_S = 30.0


def build_applications(
    settings: Settings, paths: StatePaths, *, created: int, running: Collection[str]
) -> dict[str, serve.Application]:
    """The whole platform as Serve applications by name: one of gateways and one per model (ADR 16).

    Args:
        created: Unix time that the model list shows.
        running: deployments that there are already; scaled ones keep their replicas.

    A deployment whose version stays the same keeps its replicas when its application is deployed
    again, so that a change of `replicas` alone restarts nothing.
    """
    engines = {
        engine_name(name): build_model(
            name,
            model,
            paths,
            number=autoscaling_options(
                name, model, paths, is_first=engine_name(name) not in running
            ),
        )
        for name, model in settings.models.items()
    }
    gateways = build_gateways(settings, paths, created=created, number=settings.gateway.replicas)
    return {**engines, APP_NAME: gateways}


def build_gateways(
    settings: Settings, paths: StatePaths, *, created: int, number: int = 1
) -> serve.Application:
    """The application of the gateways.

    Args:
        settings: numbers of replicas and scaling in it change nothing.
        created: Unix time that the model list shows.
        number: of gateways.
    """
    version = _gateway_version(settings, paths)
    spec = GatewaySpec(
        Settings.model_validate(gateway_part(_document(settings))),
        paths,
        created=created,
        version=version,
    )
    gateway = serve.deployment(serve.ingress()(GatewayReplica)).options(
        name=GATEWAY,
        num_replicas=number,
        max_ongoing_requests=settings.gateway.max_concurrent_requests,
        max_queued_requests=_MAX_SERVE_QUEUE,
        max_replicas_per_node=settings.gateway.max_per_node,
        ray_actor_options={"num_cpus": 0, "resources": pool_share(settings.gateway.pool)},
        logging_config={"enable_access_log": False},
        # New gateways beside the old would wait for ever where nodes may have no more of them.
        max_surge_percent=100 if settings.gateway.max_per_node is None else 0,
        health_check_period_s=_HEALTH_CHECK_PERIOD_S,
        health_check_timeout_s=_HEALTH_CHECK_TIMEOUT_S,
        graceful_shutdown_timeout_s=_longest_drain_s(settings),
        version=version,
        _internal=True,
    )
    return gateway.bind(partial(assemble_gateway, spec))


def build_model(
    name: str, model: ModelSettings, paths: StatePaths, *, number: Mapping[str, Any]
) -> serve.Application:
    """The application of one model: its engines, below a root that never runs.

    Serve wants an ingress in each application. Engines cannot be it: behind HAProxy it would open
    a listener of its own and have no request router.

    Args:
        number: Serve's options that say how many engines there are.
    """
    version = _engine_version(model, paths)
    spec = EngineSpec(
        model_id=ModelId(name),
        model=ModelSettings.model_validate(engine_part(_document(model))),
        launch=_launcher(ModelId(name), model, paths),
        ordered_at=own_order_time,
        read_token=partial(read_secret, paths.internal_token_file),
        read_metrics_token=partial(read_secret, paths.metrics_token_file),
        version=version,
    )
    engine = serve.deployment(EngineReplica).options(
        name=engine_name(name),
        max_ongoing_requests=model.request_limit,
        request_router_config=router_config(),
        logging_config={"enable_access_log": False},
        max_surge_percent=100,
        health_check_period_s=_HEALTH_CHECK_PERIOD_S,
        health_check_timeout_s=_HEALTH_CHECK_TIMEOUT_S,
        graceful_shutdown_timeout_s=model.drain_timeout_s + _DRAIN_MARGIN_S,
        version=version,
        _internal=True,
        **to_deployment_options(plan_placement(model.engine, resources=model.resources)),
        **number,
    )
    root = serve.deployment(ModelRoot).options(
        name=ROOT,
        ray_actor_options={"num_cpus": 0},
        autoscaling_config={"min_replicas": 0, "initial_replicas": 0, "max_replicas": 1},
        version=ROOT,
        _internal=True,
    )
    return root.bind(engine.bind(spec))


def deployment_targets(settings: Settings, paths: StatePaths) -> dict[str, DeploymentTarget]:
    """What Serve is to reach, by deployment, when it has been given these settings."""
    engines = {
        engine_name(name): _target(model, _engine_version(model, paths))
        for name, model in settings.models.items()
    }
    num_gateways = settings.gateway.replicas
    gateway = DeploymentTarget(num_gateways, num_gateways, _gateway_version(settings, paths))
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
        complete = partial(complete_settings, model_id)
        return partial(launch_vllm, model_id, model, find_weights, complete)
    return partial(launch_simulator, model_id, model, find_weights if model.weights else None)


def _model_folder(model: ModelSettings, paths: StatePaths) -> Path:
    if model.weights is None:
        raise ConfigError("weights is missing", code="setting_invalid", param="weights")
    check_adapters(model.adapters)
    return resolve_weights(model.weights, paths)


def _engine_version(model: ModelSettings, paths: StatePaths) -> str:
    return _version(engine_part(_document(model)), paths)


def _gateway_version(settings: Settings, paths: StatePaths) -> str:
    return _version(gateway_part(_document(settings)), paths)


def _document(settings: BaseModel) -> dict[str, Any]:
    return settings.model_dump(mode="json")


def _version(part: Mapping[str, Any], paths: StatePaths) -> str:
    """A name for what the replicas of a deployment are built from.

    Without one Serve takes a random name and restarts every replica at each deployment. Its public
    API has no such argument any more (ray 2.60.0, serve/deployment.py); in its declarative
    configuration a hash of `args` stands in for it.
    """
    return hashlib.sha256(repr((part, paths)).encode()).hexdigest()[:16]


def _longest_drain_s(settings: Settings) -> float:
    return max(model.drain_timeout_s for model in settings.models.values()) + _DRAIN_MARGIN_S
