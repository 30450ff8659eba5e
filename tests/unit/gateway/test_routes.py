"""The route table is closed, and says who may call what."""

from __future__ import annotations

import pytest

from serving.gateway.routes import ROUTES, Access, Action, find_route, speaks_anthropic


def test_nothing_but_health_and_the_description_is_public() -> None:
    public = {path for path, route in ROUTES.items() if route.access is Access.PUBLIC}
    assert public == {"/health", "/openapi.json"}


def test_engines_are_reached_by_post_with_a_key_only() -> None:
    relayed = [route for route in ROUTES.values() if route.action is Action.RELAY]
    assert {(route.method, route.access) for route in relayed} == {("POST", Access.API_KEY)}


@pytest.mark.parametrize(
    ("path", "always", "with_version"),
    [
        ("/v1/messages", True, True),
        ("/v1/messages/count_tokens", True, True),
        ("/v1/messages/batches", True, True),
        ("/v1/models", False, True),
        ("/v1/models/demo", False, True),
        ("/v1/messagesx", False, False),
        ("/v1/modelsx", False, False),
        ("/v1/chat/completions", False, False),
    ],
)
def test_who_is_answered_in_anthropics_dialect(path: str, always: bool, with_version: bool) -> None:
    assert speaks_anthropic(path, has_version=False) is always
    assert speaks_anthropic(path, has_version=True) is with_version


@pytest.mark.parametrize("path", ROUTES)
def test_every_path_is_found(path: str) -> None:
    assert find_route(path) is ROUTES[path]


@pytest.mark.parametrize("name", ["demo", "org/name", "a b", "..", "demo/"])
def test_a_models_name_may_hold_anything(name: str) -> None:
    route = find_route(f"/v1/models/{name}")
    assert route is not None
    assert (route.action, route.access) == (Action.SHOW_MODEL, Access.API_KEY)


@pytest.mark.parametrize(
    "path",
    ["", "/", "/v1", "/v1/models/", "/V1/models", "/v1/chat/completions/", "//health",
     "/metrics", "/v1/load_lora_adapter", "/reset_prefix_cache", "/sleep", "/ping",
     "/invocations", "/galerne/state", "/docs"],
)  # fmt: skip
def test_everything_else_does_not_exist(path: str) -> None:
    assert find_route(path) is None
