"""The published description promises what the gateway serves, and no more."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

from serving.gateway.openapi import published
from serving.gateway.routes import ROUTES, Access, Action

ENGINE: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "vLLM"},
    "paths": {
        "/v1/chat/completions": {
            "post": {
                "summary": "Chat",
                "parameters": [
                    {"name": "x-data-parallel-rank", "in": "header"},
                    {"name": "raw", "in": "query"},
                ],
                "requestBody": {
                    "content": {
                        "application/json": {"schema": {"$ref": "#/components/schemas/Chat"}}
                    }
                },
                "responses": {"200": {"description": "ok"}, "400": {"description": "no"}},
            }
        },
        "/tokenize": {"post": {"responses": {"200": {"description": "ok"}}}},
        "/v1/models": {"get": {"responses": {"200": {"description": "vLLM's"}}}},
        "/metrics": {"get": {"responses": {}}},
        "/sleep": {"post": {"responses": {}}},
        "/v1/embeddings": {"get": {"responses": {}}},
    },
    "components": {"schemas": {"Chat": {"type": "object"}}},
}


def test_only_served_paths_are_published() -> None:
    assert set(published(ENGINE, version="1")["paths"]) == {
        "/v1/chat/completions", "/tokenize", "/v1/models", "/v1/models/{model}", "/health"
    }  # fmt: skip


def test_an_operation_keeps_its_request_and_its_successes() -> None:
    operation = published(ENGINE, version="1")["paths"]["/v1/chat/completions"]["post"]
    original = ENGINE["paths"]["/v1/chat/completions"]["post"]

    assert operation["requestBody"] == original["requestBody"]
    assert operation["responses"].keys() == {"200", "default"}
    assert operation["parameters"] == [{"name": "raw", "in": "query"}]


def test_every_reference_leads_somewhere() -> None:
    document = published(ENGINE, version="1")

    for reference in re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document)):
        assert reference in document["components"]["schemas"]


def test_a_key_is_needed_except_for_health() -> None:
    document = published(ENGINE, version="1")

    assert document["security"] == [{"apiKey": []}]
    assert document["components"]["securitySchemes"] == {
        "apiKey": {"type": "http", "scheme": "bearer"}
    }
    for path, operations in document["paths"].items():
        is_public = path in ROUTES and ROUTES[path].access is Access.PUBLIC
        for operation in operations.values():
            assert (operation.get("security") == []) is is_public


def test_path_parameters_are_declared() -> None:
    entry = published(ENGINE, version="1")["paths"]["/v1/models/{model}"]["get"]
    assert [p["name"] for p in entry["parameters"]] == ["model"]


def test_the_engines_document_is_left_as_it_was() -> None:
    before = copy.deepcopy(ENGINE)
    published(ENGINE, version="1")["components"]["schemas"]["Chat"]["type"] = "changed"
    assert before == ENGINE


def test_an_engine_with_no_description_still_gives_one() -> None:
    document = published({"paths": {}}, version="2")

    assert document["info"] == {"title": "Galerne", "version": "2"}
    assert set(document["paths"]) == {"/v1/models", "/v1/models/{model}", "/health"}


def test_every_relayed_path_can_be_published() -> None:
    paths = [path for path, route in ROUTES.items() if route.action is Action.RELAY]
    engine = {"paths": {path: {"post": {"responses": {}}} for path in paths}}
    assert set(paths) < set(published(engine, version="1")["paths"])
