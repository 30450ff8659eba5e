"""The shapes of Anthropic's API that the gateway itself writes: errors and the model list.

Source: Anthropic API reference, "Errors" and "List Models" (2026-10).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

REQUEST_ID = b"request-id"
"""Response header in which Anthropic's SDKs look for the request's id."""

VERSION = b"anthropic-version"
"""Header of every request of Anthropic's SDKs, and of no other's."""


def error_envelope(body: Mapping[str, Any]) -> dict[str, Any]:
    """An error body of OpenAI's shape in the envelope of Anthropic's.

    >>> error_envelope({"error": {"type": "not_found_error"}})
    {'type': 'error', 'error': {'type': 'not_found_error'}}
    """
    return {"type": "error", **body}


def model_entry(model_id: str, *, created: int) -> dict[str, Any]:
    """One entry of the model list; `created` is Unix time.

    >>> model_entry("demo", created=0)["created_at"]
    '1970-01-01T00:00:00Z'
    """
    return {
        "type": "model",
        "id": model_id,
        "display_name": model_id,
        "created_at": f"{datetime.fromtimestamp(created, UTC):%Y-%m-%dT%H:%M:%SZ}",
        "lifecycle": "active",
    }


def model_list(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The answer to `GET /v1/models`: one page of at least one entry, whatever limit is asked for.

    >>> page = model_list([{"id": "a"}, {"id": "b"}])
    >>> page["first_id"], page["last_id"], page["has_more"]
    ('a', 'b', False)
    """
    return {
        "data": list(entries),
        "has_more": False,
        "first_id": entries[0]["id"],
        "last_id": entries[-1]["id"],
    }
