"""The description of a simulated engine's API, from the same models that read its requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.rendering.bodies import DetokenizeBody, TokenizeBody
from serving.rendering.messages_body import CountTokensBody, MessagesBody
from serving.rendering.openai_bodies import ChatBody, CompletionBody
from serving.rendering.responses_body import ResponsesBody

_BODIES: Mapping[str, tuple[str, type[BaseModel]]] = {
    "/v1/chat/completions": ("Create Chat Completion", ChatBody),
    "/v1/completions": ("Create Completion", CompletionBody),
    "/v1/responses": ("Create Responses", ResponsesBody),
    "/v1/messages": ("Create Messages", MessagesBody),
    "/v1/messages/count_tokens": ("Count Tokens", CountTokensBody),
    "/tokenize": ("Tokenize", TokenizeBody),
    "/detokenize": ("Detokenize", DetokenizeBody),
}
_STREAMED = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "integer"},
            },
        }
    },
}


def describe(*, version: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document.

    >>> sorted(describe(version="1")["paths"])[:2]
    ['/detokenize', '/tokenize']
    """
    refs, definitions = models_json_schema(
        [(body, "validation") for _, body in _BODIES.values()],
        ref_template="#/components/schemas/{model}",
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "FastAPI", "version": version},
        "paths": {
            path: {"post": _operation(path, title, refs[body, "validation"])}
            for path, (title, body) in _BODIES.items()
        },
        "components": {"schemas": {**definitions.get("$defs", {}), "ErrorResponse": _ERROR}},
    }


def _operation(path: str, title: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {}}}
    if path in _STREAMED:
        content["text/event-stream"] = {}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}
    return {
        "summary": title,
        "operationId": title.lower().replace(" ", "_"),
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {
            "200": {"description": "Successful Response", "content": content},
            **{
                status: {"description": description, "content": error}
                for status, description in (("400", "Bad Request"), ("404", "Not Found"))
            },
        },
    }
