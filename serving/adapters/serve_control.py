"""Deploying the application on Ray Serve and asking how it is."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from serving.adapters.announcement import announced
from serving.adapters.autoscaler import shared
from serving.adapters.deployment_state import (
    ApplicationState,
    DeploymentState,
    ReplicaState,
    deployments_of,
)
from serving.core.clocks import ahead_s
from serving.errors import ConfigError
from serving.planner.serve_config import APP_NAME, GATEWAY, ROOT, is_ours
from serving.settings.gateway import EndpointSettings

if TYPE_CHECKING:
    from ray import serve
    from ray.serve.schema import ApplicationDetails, ReplicaDetails

_ASK_TIMEOUT_S = 2.0
_CONTROLLER = "SERVE_CONTROLLER_ACTOR"
_IDENTITY = ("clock_ahead_s", "pid", "node", "metrics_url", "version", "problems")


def deploy(applications: Mapping[str, serve.Application], *, endpoint: EndpointSettings) -> None:
    """Hand the platform's applications to Serve and return at once; `application_states` tells the
    rest. Those of models that are gone go too, finishing their streams.

    Raises:
        ConfigError: Serve's proxy does not come up.
    """
    import ray
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        serve.start(http_options={"host": endpoint.host, "port": endpoint.port})
    except ray.exceptions.RayError as error:
        raise ConfigError(
            f"the proxy did not start: {str(error).strip().splitlines()[-1]}",
            code="proxy_failed",
            hint="see logs/ray/serve in the state folder",
        ) from error
    targets = [
        serve.RunTarget(
            target=application, name=name, route_prefix="/" if name == APP_NAME else None
        )
        for name, application in applications.items()
    ]
    serve.run_many(
        targets,
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )
    for name in _applications().keys() - applications.keys():
        serve.delete(name, _blocking=False)


def application_states() -> dict[str, ApplicationState]:
    """The platform's applications, with those of their deployments that may have replicas; empty
    before Serve knows any."""
    return {name: _application_state(details) for name, details in _applications().items()}


def deployment_states() -> dict[str, DeploymentState]:
    """Every deployment of the platform that may have replicas; empty before Serve knows any."""
    return deployments_of(application_states())


def own_order_time() -> float | None:
    """When Serve ordered the replica that this process is, by its controller's clock in Unix time;
    `None` if it does not say so in time."""
    import ray
    from ray import serve

    me = serve.get_replica_context()
    try:
        application = _applications(timeout_s=_ASK_TIMEOUT_S).get(me.app_name)
    except (ray.exceptions.RayError, ValueError):  # it may be starting anew, or of another release
        return None
    deployment = application.deployments.get(me.deployment) if application else None
    replicas = deployment.replicas if deployment else ()
    times = (each.start_time_s for each in replicas if each.replica_id == me.replica_tag)
    return next(times, None) or None


def _applications(*, timeout_s: float | None = None) -> dict[str, ApplicationDetails]:
    """The details that Serve's own REST interface shows of the platform's applications, by name.

    Its public `serve.status` leaves out the replicas, and starts a cluster of its own where none
    runs yet.

    Raises:
        ray.exceptions.RayError: the controller has died, or does not answer in time.
    """
    import ray
    from ray.serve.schema import ServeInstanceDetails

    if not ray.is_initialized():
        return {}
    try:
        controller = ray.get_actor(_CONTROLLER, namespace="serve")
    except ValueError:
        return {}
    details = ray.get(controller.get_serve_instance_details.remote(), timeout=timeout_s)
    applications = ServeInstanceDetails(**details).applications
    return {name: found for name, found in applications.items() if is_ours(name)}


def _application_state(details: ApplicationDetails) -> ApplicationState:
    deployments = {
        name: DeploymentState(
            status=deployment.status.value,
            replicas=[_replica_state(replica) for replica in deployment.replicas],
            message=deployment.message,
            trigger=deployment.status_trigger.value,
        )
        for name, deployment in details.deployments.items()
        if name != ROOT
    }
    return ApplicationState(details.status.value, str(details.message), deployments)


def _replica_state(details: ReplicaDetails) -> ReplicaState:
    return ReplicaState(
        id=details.replica_id,
        phase=details.state.value,
        pid=details.pid,
        node=details.node_id,
        started_at=details.start_time_s,
    )


def gateway_processes() -> list[dict[str, Any]]:
    """Id, clock's difference to this machine's in seconds, pid, node, metrics address, version and
    problems of each gateway.

    All but the id are `None` while it cannot answer, the last three until it is ready.
    """
    import ray

    rows = []
    for actor in _gateway_actors():
        try:
            asked_at = time.time()
            row = _call(actor, _identify)
            clock = ahead_s(row.pop("time"), asked_at=asked_at, answered_at=time.time())
            row["clock_ahead_s"] = clock
        except (ValueError, ray.exceptions.RayError):
            row = dict.fromkeys(_IDENTITY)
        rows.append({"id": actor.rpartition("#")[2], **row})
    return rows


def drain_gateways() -> int:
    """How many requests run in the gateways, which refuse new ones from now on.

    A gateway that does not answer in time counts as one request: it may be busy with it.
    """
    import ray

    num_running = 0
    for actor in _gateway_actors():
        try:
            num_running += _call(actor, _drain)
        except ray.exceptions.GetTimeoutError:
            num_running += 1
        except (ValueError, ray.exceptions.RayError):
            continue
    return num_running


def autoscaler() -> dict[str, Any] | None:
    """Where the autoscaler shows its metrics (`metrics_url`), and its latest decision on each model
    by name (`scaling`); `None` while nothing is scaled, or the controller does not answer."""
    import ray

    if not ray.is_initialized():
        return None
    try:
        told: dict[str, Any] | None = _call(_CONTROLLER, _tell_scaling)
    except (ValueError, ray.exceptions.RayError):
        return None
    return told


def wake(model: str) -> bool:
    """Let the controller start a first replica of a scaled model; whether it has heard that."""
    import ray

    try:
        _call(_CONTROLLER, partial(_wake, model))
    except (ValueError, ray.exceptions.RayError):
        return False
    return True


def _gateway_actors() -> list[str]:
    """Serve names its actors `SERVE_REPLICA::APP#DEPLOYMENT#ID`.

    Source: ray/serve/_private/common.py, ray 2.60.0.
    """
    import ray

    if not ray.is_initialized():
        return []
    prefix = f"SERVE_REPLICA::{APP_NAME}#{GATEWAY}#"
    actors = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    return [actor for actor in actors if actor.startswith(prefix)]


def _call(actor: str, question: Callable[[object], Any]) -> Any:
    """What a function returns in the actor's process: every Ray actor has `__ray_call__`.

    Raises:
        ValueError: there is no such actor.
        ray.exceptions.RayError: it has died, or does not answer in time.
    """
    import ray

    handle = ray.get_actor(actor, namespace="serve")
    return ray.get(handle.__ray_call__.remote(question), timeout=_ASK_TIMEOUT_S)


def _identify(_actor: object) -> dict[str, Any]:
    import ray

    told = announced()
    return {
        "time": time.time(),
        "pid": os.getpid(),
        "node": ray.get_runtime_context().get_node_id(),
        "metrics_url": told and told.metrics_url,
        "version": told and told.version,
        "problems": told and told.problems(),
    }


def _tell_scaling(_controller: object) -> dict[str, Any] | None:
    if (found := shared()) is None:
        return None
    reports = found.autoscaler.reports()
    scaling = {model: report.to_status() for model, report in reports.items()}
    return {"metrics_url": found.metrics_url, "scaling": scaling}


def _wake(model: str, _controller: object) -> None:
    if (found := shared()) is not None:
        found.autoscaler.wake(model)


def _drain(_actor: object) -> int:
    told = announced()
    return told.drain() if told else 0
