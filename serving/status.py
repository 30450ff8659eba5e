"""What `galerne status` shows, composed from what Serve, Ray and a gateway each know. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from serving.adapters.deployment_state import (
    ApplicationState,
    DeploymentState,
    DeploymentTarget,
    ReplicaState,
    deployments_of,
)
from serving.planner.serve_config import GATEWAY, engine_name


@dataclass(frozen=True, slots=True)
class Views:
    """Three views of the same platform, taken at about the same time.

    `states` are Serve's deployments by name, `gateways` what the gateway processes tell of
    themselves, `fleet` the engine replicas as a gateway sees them; `None` while no gateway answers.
    `scaling` is the latest decision on each scaled model, by its name.
    """

    states: Mapping[str, DeploymentState]
    gateways: Sequence[Mapping[str, Any]]
    fleet: Mapping[str, Any] | None
    scaling: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def compose_status(endpoint: str, models: Sequence[str], views: Views) -> dict[str, Any]:
    """The status document."""
    seen = views.fleet["models"] if views.fleet else {}
    return {
        "endpoint": endpoint,
        "models": [
            _model(model_id, views.states.get(engine_name(model_id)), seen.get(model_id, []))
            | {"scaling": views.scaling.get(model_id)}
            for model_id in models
        ],
        "gateways": _gateways(views),
    }


def compose_rollout(
    applications: Mapping[str, ApplicationState],
    targets: Mapping[str, DeploymentTarget],
    current: Mapping[str, int],
) -> dict[str, Any]:
    """How a change of settings goes.

    Args:
        applications: as Serve shows them.
        targets: what their deployments are to reach.
        current: running replicas of the targets' versions, by deployment, counted later than the
            applications were looked at. Serve's own counts do not tell old replicas from new ones.

    Replicas that only finish their last streams do not hold it up, nor do those that an autoscaler
    orders beyond what there must be. What Serve has not begun yet is not done, though replicas may
    be the wanted ones already: a change that failed is taken back.
    """
    states = deployments_of(applications)
    running = {name: states[name].num_running if name in states else 0 for name in targets}
    stopping = sum(state.count("STOPPING") for state in states.values())
    has_begun = all(application.has_begun for application in applications.values())
    in_force = has_begun and all(
        name in states
        and (states[name].is_settled or target.lowest < target.highest)
        and target.lowest <= running[name] <= target.highest
        and running[name] <= current.get(name, 0)
        for name, target in targets.items()
    )
    parts = [
        f"{name.removeprefix('engine:')} {current.get(name, 0)}/{max(running[name], target.lowest)}"
        for name, target in targets.items()
    ]
    return {
        "done": in_force,
        "message": f"rolling out: {', '.join(parts)}" if has_begun else "waiting for Ray Serve",
        "failure": failure_cause(applications),
        "remark": f"; {stopping} replicas still finish their requests" if stopping else "",
    }


def num_current(
    targets: Mapping[str, DeploymentTarget],
    gateways: Sequence[Mapping[str, Any]],
    fleet: Mapping[str, Any] | None,
) -> dict[str, int]:
    """Replicas of the targets' versions that run, by deployment; arguments as in `Views`."""
    engines = fleet["models"] if fleet else {}
    replicas = {engine_name(model): rows for model, rows in engines.items()}
    replicas[GATEWAY] = gateways
    return {
        name: sum(row["version"] == target.version for row in replicas.get(name, ()))
        for name, target in targets.items()
    }


def failure_cause(applications: Mapping[str, ApplicationState]) -> str | None:
    """Why Serve has given an application up, `None` if it has given up none: what failed
    deployments say, else what it says of the application.

    >>> failed = DeploymentState("DEPLOY_FAILED", (), "serving.errors.ConfigError: no room\\n")
    >>> failure_cause({"engine:a": ApplicationState("DEPLOY_FAILED", "", {"engine:a": failed})})
    'a: no room'
    """
    failed = [application for application in applications.values() if application.has_failed]
    causes = [
        f"{name.removeprefix('engine:')}: {state.cause}"
        for application in failed
        for name, state in application.deployments.items()
        if state.status in ("DEPLOY_FAILED", "UNHEALTHY") and state.cause
    ]
    if causes:
        return "; ".join(causes)
    return next((application.message for application in failed), None)


_CLOCK_TOLERANCE_S = 2.0
"""Machines that keep time by NTP are within milliseconds."""
_NO_LOAD = dict.fromkeys(("in_flight", "waiting", "kv_blocks_used", "kv_blocks_total"))


def _model(
    model_id: str, state: DeploymentState | None, replicas: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    engine: Mapping[str, Any] = next((r["state"]["engine"] for r in replicas if r["state"]), {})
    known = {replica.id: replica for replica in state.replicas} if state else {}
    rows = [_seen(replica, known.pop(replica["id"], None)) for replica in replicas]
    return {
        "id": model_id,
        "status": state.status if state else "UNKNOWN",
        "message": state.cause if state else "",
        "sliding_window": engine.get("sliding_window"),
        "max_model_len": engine.get("max_model_len"),
        "kv_block_size": engine.get("block_size"),
        "max_num_batched_tokens": engine.get("max_num_batched_tokens"),
        "replicas": [*rows, *map(_unseen, known.values())],
    }


def _seen(replica: Mapping[str, Any], known: ReplicaState | None) -> dict[str, Any]:
    """The row of a replica that a gateway can name."""
    state = replica["state"]
    row = {
        "id": replica["id"],
        "state": "UNREACHABLE",
        "started_at": _to_text(known.started_at if known else 0),
        "pid": replica["pid"],
        "node": replica["node_id"],
        **_NO_LOAD,
    }
    if state is None:
        return row
    return row | {
        "state": "DRAINING" if state["draining"] else "RUNNING",
        "in_flight": state["in_flight"],
        "waiting": state["load"]["waiting"],
        "kv_blocks_used": state["load"]["kv_blocks_used"],
        "kv_blocks_total": state["engine"]["kv_blocks_total"],
    }


def _unseen(replica: ReplicaState) -> dict[str, Any]:
    """The row of a replica that only Serve knows."""
    return _row(replica) | _NO_LOAD


def _gateways(views: Views) -> list[dict[str, Any]]:
    told = {gateway["id"]: gateway for gateway in views.gateways}
    state = views.states.get(GATEWAY)
    replicas = state.replicas if state else ()
    return [_gateway(replica, told.get(replica.id, {})) for replica in replicas]


def clock_problems(gateways: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What to say of each gateway, by id, whose clock is apart from that of this machine.

    Nothing that passes between gateways and replicas depends on a time of day; keys and logs do.

    >>> clock_problems([{"id": "a", "clock_ahead_s": -40.0}, {"id": "b", "clock_ahead_s": 0.3}])
    {'a': 'its clock is 40 s behind: keys expire late there, and its log lines are misplaced'}
    """
    apart = {row["id"]: row.get("clock_ahead_s") or 0.0 for row in gateways}
    return {
        name: f"its clock is {abs(ahead_s):.0f} s {'ahead' if ahead_s > 0 else 'behind'}: keys "
        f"expire {'early' if ahead_s > 0 else 'late'} there, and its log lines are misplaced"
        for name, ahead_s in apart.items()
        if abs(ahead_s) > _CLOCK_TOLERANCE_S
    }


def _gateway(replica: ReplicaState, told: Mapping[str, Any]) -> dict[str, Any]:
    """A gateway that runs but tells nothing of itself does not answer."""
    clock = clock_problems([told]) if told else {}
    row = _row(replica) | {"problems": [*(told.get("problems") or ()), *clock.values()]}
    is_silent = replica.phase == "RUNNING" and told.get("pid") is None
    return row | {"state": "UNREACHABLE"} if is_silent else row


def _row(replica: ReplicaState) -> dict[str, Any]:
    return {
        "id": replica.id,
        "state": replica.phase,
        "started_at": _to_text(replica.started_at),
        "pid": replica.pid,
        "node": replica.node,
    }


def _to_text(unix_time: float) -> str | None:
    return datetime.fromtimestamp(unix_time, UTC).isoformat("T", "seconds") if unix_time else None
