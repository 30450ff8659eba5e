"""Why a request would go where it would go: what `galerne route` shows."""

from __future__ import annotations

from typing import Any

import msgspec

from serving.errors import RequestError
from serving.routing.pipeline import Considered, Decision
from serving.routing.snapshots import RequestProfile


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


def _candidate(row: Considered, profile: RequestProfile) -> dict[str, Any]:
    return {
        "replica": row.replica,
        "obstacle": None if row.obstacle is None else row.obstacle.value,
        "score": round(row.score, 4),
        "scores": {name: round(score, 4) for name, score in row.scores.items()},
        "predicted_hit_tokens": profile.hit_tokens.get(row.replica, 0),
    }
