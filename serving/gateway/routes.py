"""What the endpoint serves, as data. A path that is not here does not exist."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from serving.core.wire import EXPLAIN_PATH, FLEET_PATH, METRIC_TARGETS_PATH


class Action(Enum):
    """What the gateway does with a request."""

    RELAY = auto()
    """To an engine of the model that the JSON body names."""
    LIST_MODELS = auto()
    SHOW_MODEL = auto()
    OPENAPI = auto()
    HEALTH = auto()
    FLEET = auto()
    METRIC_TARGETS = auto()
    EXPLAIN = auto()
    """How a request would be routed."""


class Access(Enum):
    """Who may call a route."""

    API_KEY = auto()
    INTERNAL = auto()
    """Galerne's own commands, with the cluster's internal token."""
    METRICS = auto()
    """Prometheus, with the metrics token."""
    PUBLIC = auto()


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the table. `anthropic` marks Anthropic's dialect, whose errors look different."""

    method: str
    action: Action
    access: Access = Access.API_KEY
    anthropic: bool = False


MODEL_PREFIX = "/v1/models/"

_RELAY = Route("POST", Action.RELAY)
_ANTHROPIC = Route("POST", Action.RELAY, anthropic=True)

ROUTES: dict[str, Route] = {
    "/v1/chat/completions": _RELAY,
    "/v1/completions": _RELAY,
    "/v1/responses": _RELAY,
    "/v1/messages": _ANTHROPIC,
    "/v1/messages/count_tokens": _ANTHROPIC,
    "/v1/embeddings": _RELAY,
    "/v1/score": _RELAY,
    "/score": _RELAY,
    "/v1/rerank": _RELAY,
    "/v2/rerank": _RELAY,
    "/rerank": _RELAY,
    "/pooling": _RELAY,
    "/classify": _RELAY,
    "/tokenize": _RELAY,
    "/detokenize": _RELAY,
    "/v1/models": Route("GET", Action.LIST_MODELS),
    "/openapi.json": Route("GET", Action.OPENAPI, Access.PUBLIC),
    "/health": Route("GET", Action.HEALTH, Access.PUBLIC),
    FLEET_PATH: Route("GET", Action.FLEET, Access.INTERNAL),
    EXPLAIN_PATH: Route("POST", Action.EXPLAIN, Access.INTERNAL),
    METRIC_TARGETS_PATH: Route("GET", Action.METRIC_TARGETS, Access.METRICS),
}

_SHOW_MODEL = Route("GET", Action.SHOW_MODEL)


def find_route(path: str) -> Route | None:
    """The row for a path, whatever the method; `None` when nothing is served there.

    >>> find_route("/v1/models/org/name").action
    <Action.SHOW_MODEL: 3>
    >>> find_route("/metrics") is None
    True
    """
    if path.startswith(MODEL_PREFIX) and len(path) > len(MODEL_PREFIX):
        return _SHOW_MODEL
    return ROUTES.get(path)
