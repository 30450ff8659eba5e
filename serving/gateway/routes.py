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
    """One row of the table."""

    method: str
    action: Action
    access: Access = Access.API_KEY

    @property
    def methods(self) -> tuple[str, ...]:
        """What it takes; HEAD wherever GET (RFC 9110, section 9.3.2): probes use it."""
        return ("GET", "HEAD") if self.method == "GET" else (self.method,)


MODELS_PATH = "/v1/models"
MODEL_PREFIX = f"{MODELS_PATH}/"
_MESSAGES_PATH = "/v1/messages"

_RELAY = Route("POST", Action.RELAY)

ROUTES: dict[str, Route] = {
    "/v1/chat/completions": _RELAY,
    "/v1/completions": _RELAY,
    "/v1/responses": _RELAY,
    _MESSAGES_PATH: _RELAY,
    f"{_MESSAGES_PATH}/count_tokens": _RELAY,
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
    MODELS_PATH: Route("GET", Action.LIST_MODELS),
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


def speaks_anthropic(path: str, *, has_version: bool) -> bool:
    """Whether the caller expects Anthropic's dialect, also where nothing is served.

    Args:
        has_version: whether the request names a version of Anthropic's API; it tells who asks for
            the models, which have the same path in both APIs.

    >>> speaks_anthropic("/v1/messages/batches", has_version=False)
    True
    >>> speaks_anthropic("/v1/models", has_version=False)
    False
    """
    if path == _MESSAGES_PATH or path.startswith(f"{_MESSAGES_PATH}/"):
        return True
    return has_version and (path == MODELS_PATH or path.startswith(MODEL_PREFIX))
