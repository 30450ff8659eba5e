"""Why a request would go where it would go: what `galerne route` shows."""

from __future__ import annotations

from typing import Any

import msgspec

from serving.core.types import Principal
from serving.core.wire import EXPLAIN, ROUTE
from serving.errors import AccessError, RequestError
from serving.routing.pipeline import Considered, Decision
from serving.routing.snapshots import RequestProfile

_MAX_IN_HEADER = 8


class Question(msgspec.Struct, frozen=True):
    """A request as its client would send it: who, to which path, and its body."""

    path: str
    request: msgspec.Raw
    tenant: str = ""


_decoder = msgspec.json.Decoder(Question)


def read_question(body: bytes) -> Question:
    """The question in a body.

    Raises:
        RequestError: there is none.
    """
    try:
        return _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise RequestError(f"The body is no question: {error}", code="invalid_json") from error


def explanation(decision: Decision, profile: RequestProfile) -> dict[str, Any]:
    """The decision as a document: the best candidate first, those out of the question last."""
    ranked = sorted(decision.considered, key=lambda row: (row.obstacle is not None, -row.score))
    return {
        "replica": decision.replica,
        "reason": decision.reason,
        "prompt_tokens": profile.prompt_tokens,
        "candidates": [_candidate(row, profile) for row in ranked],
    }


def check_may_explain(principal: Principal) -> None:
    """The caller may see replicas and their load.

    Raises:
        AccessError: it may not.
    """
    if not principal.is_operator:
        raise AccessError(
            f"The header {EXPLAIN.decode()} takes an operator's key "
            "(`galerne keys create --operator`)",
            code="operator_key_required",
        )


def explanation_header(decision: Decision, profile: RequestProfile) -> tuple[bytes, bytes]:
    """The decision as a response header, with the best candidates only: proxies bound headers."""
    document = explanation(decision, profile)
    document["candidates"] = document["candidates"][:_MAX_IN_HEADER]
    return ROUTE, msgspec.json.encode(document)


def _candidate(row: Considered, profile: RequestProfile) -> dict[str, Any]:
    return {
        "replica": row.replica,
        "obstacle": None if row.obstacle is None else row.obstacle.value,
        "score": round(row.score, 4),
        "scores": {name: round(score, 4) for name, score in row.scores.items()},
        "predicted_hit_tokens": profile.hit_tokens.get(row.replica, 0),
    }
