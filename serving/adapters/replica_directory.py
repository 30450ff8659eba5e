"""Ray Serve's directory of running replicas, as this process last heard it.

Serve broadcasts the running replicas of a deployment to every process that holds a handle to it;
`serve_router.FleetRouter` takes the broadcast and hands it to `publish`. Requests then go straight
to a replica's own listener: no actor call on the request path, and no slot on a replica that a
killed gateway would leak.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.serve.handle import DeploymentHandle

from serving.core.types import ReplicaEndpoint

Listener = Callable[[tuple[ReplicaEndpoint, ...]], None]

_listeners: dict[str, Listener] = {}
_latest: dict[str, tuple[ReplicaEndpoint, ...]] = {}
_handles: dict[str, DeploymentHandle[Any]] = {}
# Process-wide because Serve constructs the router itself, from an import path; keyed by deployment.


def publish(deployment: str, endpoints: tuple[ReplicaEndpoint, ...]) -> None:
    """Replace what is known of one deployment's running replicas."""
    _latest[deployment] = endpoints
    if deployment in _listeners:
        _listeners[deployment](endpoints)


def watch_replicas(handle: DeploymentHandle[Any], listener: Listener) -> None:
    """Call `listener` now and after every change, on this process's event loop."""
    # Its router is what Serve talks to, for as long as the handle exists.
    _handles[handle.deployment_name] = handle
    _listeners[handle.deployment_name] = listener
    listener(_latest.get(handle.deployment_name, ()))
    # Handles connect to the controller on first use; `options` is the public way to use one
    # without sending anything.
    handle.options(method_name="check_health")
