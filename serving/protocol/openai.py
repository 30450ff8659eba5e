"""The shapes of OpenAI's API that the gateway itself writes: errors and the model list.

Source: OpenAI API reference, "Error codes" and "Models" (2026-10).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any


def error_body(
    message: str, *, error_type: str, code: str, param: str | None = None
) -> dict[str, Any]:
    """An error as OpenAI's SDKs read it.

    >>> error_body("No such model", error_type="not_found_error", code="model_not_found")
    {'error': {'message': 'No such model', 'type': 'not_found_error', 'param': None, \
'code': 'model_not_found'}}
    """
    return {"error": {"message": message, "type": error_type, "param": param, "code": code}}


def error_event(body: Mapping[str, Any], *, named: bool) -> bytes:
    """An error inside a stream that has begun, as a server-sent event.

    Args:
        body: an error body.
        named: whether the dialect names its events, as Anthropic's does.

    >>> error_event({"error": {}}, named=False)
    b'data: {"error": {}}\\n\\n'
    """
    prefix = b"event: error\n" if named else b""
    return prefix + b"data: " + json.dumps(body).encode() + b"\n\n"


def model_entry(model_id: str, *, created: int, parent: str | None = None) -> dict[str, Any]:
    """One entry of the model list; `parent` is the base model of a LoRA adapter."""
    entry: dict[str, Any] = {
        "id": model_id,
        "object": "model",
        "created": created,
        "owned_by": "galerne",
    }
    return entry if parent is None else {**entry, "parent": parent}


def model_list(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The answer to `GET /v1/models`."""
    return {"object": "list", "data": list(entries)}
