"""Deploying the application on Ray Serve and asking how it is."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from serving.adapters.announcement import announced
from serving.adapters.deployment_state import DeploymentState
from serving.errors import ConfigError
from serving.settings import EndpointSettings

if TYPE_CHECKING:
    from ray import serve

_ASK_TIMEOUT_S = 2.0


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
    from ray import serve

    application = serve.status().applications.get(name)
    if application is None:
        return {}
    return {
        deployment: DeploymentState(
            status=state.status.value,
            replica_states={str(phase): count for phase, count in state.replica_states.items()},
            message=state.message,
        )
        for deployment, state in application.deployments.items()
    }


def application_failure(name: str) -> str | None:
    """Serve's message if it has given the application up, else `None`."""
    from ray import serve

    application = serve.status().applications.get(name)
    if application is None or application.status != "DEPLOY_FAILED":
        return None
    return str(application.message)


def replica_processes(name: str, deployment: str) -> list[dict[str, Any]]:
    """Id, pid, node, metrics address and version of each replica of one deployment.

    All but the id are `None` while it cannot answer, the last two until it is ready.

    Serve names its actors `SERVE_REPLICA::APP#DEPLOYMENT#ID` (ray 2.60.0,
    serve/_private/common.py), and every Ray actor runs `__ray_call__`.
    """
    import ray

    prefix = f"SERVE_REPLICA::{name}#{deployment}#"
    actors = [
        actor["name"]
        for actor in ray.util.list_named_actors(all_namespaces=True)
        if actor["name"].startswith(prefix)
    ]
    return [{"id": actor.removeprefix(prefix), **_ask_process(actor)} for actor in actors]


def _ask_process(actor: str) -> dict[str, Any]:
    import ray

    try:
        handle = ray.get_actor(actor, namespace="serve")
        answer: dict[str, Any] = ray.get(
            handle.__ray_call__.remote(_identify), timeout=_ASK_TIMEOUT_S
        )
    except (ValueError, ray.exceptions.RayError):
        return dict.fromkeys(("pid", "node", "metrics_url", "version"))
    return answer


def _identify(_actor: object) -> dict[str, Any]:
    import ray

    told = announced()
    return {
        "pid": os.getpid(),
        "node": ray.get_runtime_context().get_node_id(),
        "metrics_url": told and told.metrics_url,
        "version": told and told.version,
    }
