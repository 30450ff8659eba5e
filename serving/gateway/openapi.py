"""The published API description: an engine's own, cut down to what the gateway serves."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from serving.gateway.routes import ROUTES, Access, Action

_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
_ERROR_ANSWER = {
    "description": "Refused or failed; `error.code` is stable.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/GatewayError"}}},
}
_MODEL_SCHEMA = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
        "parent": {"type": "string"},
    },
}
_MODEL_LIST_SCHEMA = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {
        "object": {"const": "list"},
        "data": {"type": "array", "items": {"$ref": "#/components/schemas/GatewayModel"}},
    },
}


def published(engine: Mapping[str, Any], *, version: str) -> dict[str, Any]:
    """The description clients may rely on.

    Args:
        engine: the OpenAPI document of one engine.
        version: Galerne's version.
    """
    components = copy.deepcopy(engine.get("components", {}))
    components.setdefault("schemas", {}).update(
        GatewayError=_ERROR_SCHEMA, GatewayModel=_MODEL_SCHEMA, GatewayModelList=_MODEL_LIST_SCHEMA
    )
    components["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer"}}
    relayed = {
        path: {"post": _operation(engine["paths"][path]["post"])}
        for path, route in ROUTES.items()
        if route.action is Action.RELAY and "post" in engine["paths"].get(path, {})
    }
    return {
        "openapi": engine.get("openapi", "3.1.0"),
        "info": {"title": "Galerne", "version": version},
        "security": [{"apiKey": []}],
        "paths": {**relayed, **_own_paths()},
        "components": components,
    }


def _operation(operation: Mapping[str, Any]) -> dict[str, Any]:
    """An engine's operation without its own account of errors, which the gateway rewrites."""
    kept = {status: answer for status, answer in operation["responses"].items() if status[0] == "2"}
    parameters = [p for p in operation.get("parameters", []) if p.get("in") != "header"]
    return {**operation, "parameters": parameters, "responses": {**kept, "default": _ERROR_ANSWER}}


def _own_paths() -> dict[str, Any]:
    listing = _get("List the served models", "GatewayModelList")
    entry = _get("One served model", "GatewayModel")
    entry["parameters"] = [
        {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    ]
    health = {
        "summary": "Whether the gateway is up",
        "security": [],
        "responses": {"200": {"description": "Up"}},
    }
    public = [path for path, route in ROUTES.items() if route.access is Access.PUBLIC]
    return {
        "/v1/models": {"get": listing},
        "/v1/models/{model}": {"get": entry},
        **{path: {"get": health} for path in public if ROUTES[path].action is Action.HEALTH},
    }


def _get(summary: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {
        "summary": summary,
        "responses": {
            "200": {"description": "Found", "content": content},
            "default": _ERROR_ANSWER,
        },
    }
