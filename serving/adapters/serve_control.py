"""Deploying the application on Ray Serve and asking how it is."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from serving.adapters.announcement import announced
from serving.adapters.autoscaler import shared
from serving.adapters.deployment_state import DeploymentState, ReplicaState
from serving.core.clocks import ahead_s
from serving.errors import ConfigError
from serving.settings import EndpointSettings

if TYPE_CHECKING:
    from ray import serve
    from ray.serve.schema import ApplicationDetails, ReplicaDetails

_ASK_TIMEOUT_S = 2.0
_CONTROLLER = "SERVE_CONTROLLER_ACTOR"
_IDENTITY = ("clock_ahead_s", "pid", "node", "metrics_url", "version", "problems")


def deploy(application: serve.Application, *, name: str, endpoint: EndpointSettings) -> None:
    """Hand the application to Serve and return at once; `deployment_states` tells the rest.

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
    serve.run_many(
        [serve.RunTarget(target=application, name=name, route_prefix="/")],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )


def deployment_states(name: str) -> dict[str, DeploymentState]:
    """Every deployment of the application; empty before Serve knows it."""
    application = _application(name)
    deployments = application.deployments if application else {}
    return {
        name: DeploymentState(
            status=deployment.status.value,
            replicas=[_replica_state(replica) for replica in deployment.replicas],
            message=deployment.message,
        )
        for name, deployment in deployments.items()
    }


def own_order_time() -> float | None:
    """When Serve ordered the replica that this process is, by its controller's clock in Unix time;
    `None` if it does not say so in time."""
    import ray
    from ray import serve

    me = serve.get_replica_context()
    try:
        application = _application(me.app_name, timeout_s=_ASK_TIMEOUT_S)
    except (ray.exceptions.RayError, ValueError):  # it may be starting anew, or of another release
        return None
    deployment = application.deployments.get(me.deployment) if application else None
    replicas = deployment.replicas if deployment else ()
    times = (each.start_time_s for each in replicas if each.replica_id == me.replica_tag)
    return next(times, None) or None


def application_failure(name: str) -> str | None:
    """Serve's message if it has given the application up, else `None`."""
    application = _application(name)
    if application is None or application.status != "DEPLOY_FAILED":
        return None
    return str(application.message)


def _application(name: str, *, timeout_s: float | None = None) -> ApplicationDetails | None:
    """The details that Serve's own REST interface shows of an application, if there is one.

    Its public `serve.status` leaves out the replicas, and starts a cluster of its own where none
    runs yet.

    Raises:
        ray.exceptions.RayError: the controller has died, or does not answer in time.
    """
    import ray
    from ray.serve.schema import ServeInstanceDetails

    if not ray.is_initialized():
        return None
    try:
        controller = ray.get_actor(_CONTROLLER, namespace="serve")
    except ValueError:
        return None
    details = ray.get(controller.get_serve_instance_details.remote(), timeout=timeout_s)
    return ServeInstanceDetails(**details).applications.get(name)


def _replica_state(details: ReplicaDetails) -> ReplicaState:
    return ReplicaState(
        id=details.replica_id,
        phase=details.state.value,
        pid=details.pid,
        node=details.node_id,
        started_at=details.start_time_s,
    )


def replica_processes(name: str, deployment: str) -> list[dict[str, Any]]:
    """Id, clock's difference to this machine's in seconds, pid, node, metrics address, version and
    problems of each replica of one deployment.

    All but the id are `None` while it cannot answer, the last three until it is ready.
    """
    import ray

    rows = []
    for actor in _replica_actors(name, deployment):
        try:
            asked_at = time.time()
            row = _call(actor, _identify)
            clock = ahead_s(row.pop("time"), asked_at=asked_at, answered_at=time.time())
            row["clock_ahead_s"] = clock
        except (ValueError, ray.exceptions.RayError):
            row = dict.fromkeys(_IDENTITY)
        rows.append({"id": actor.rpartition("#")[2], **row})
    return rows


def drain(name: str, deployment: str) -> int:
    """How many requests run in the replicas of one deployment, which refuse new ones from now on.

    A replica that does not answer in time counts as one request: it may be busy with it.
    """
    import ray

    num_running = 0
    for actor in _replica_actors(name, deployment):
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


def _replica_actors(name: str, deployment: str) -> list[str]:
    """Serve names its actors `SERVE_REPLICA::APP#DEPLOYMENT#ID`.

    Source: ray/serve/_private/common.py, ray 2.60.0.
    """
    import ray

    if not ray.is_initialized():
        return []
    prefix = f"SERVE_REPLICA::{name}#{deployment}#"
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
