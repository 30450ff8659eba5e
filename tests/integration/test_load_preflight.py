"""What is asked of an endpoint before a load test, against endpoints of all kinds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from loadtest.generator import preflight
from loadtest.generator.target import Target
from serving.errors import ConfigError

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def target_of(server: TestServer) -> Target:
    return Target.parse(str(server.make_url("/")))


async def refusal(answer: web.Response | Answer) -> ConfigError:
    """Why an endpoint with this list of models is refused."""

    async def models(request: web.Request) -> web.StreamResponse:
        return answer if isinstance(answer, web.Response) else await answer(request)

    application = web.Application()
    application.router.add_get("/v1/models", models)
    async with TestServer(application) as server:
        with pytest.raises(ConfigError) as refused:
            await preflight.check(target_of(server), {("m", None)}, {"chat"})
    return refused.value


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b"{}",
        b'{"data": null}',
        b'{"data": [1]}',
        b'{"data": [{"id": 1}]}',
        b'{"data": [{"id": ["m"]}]}',
        b'{"data": [{"id": "m"}], "more": ' + b"[" * 100_000,
        b'{"data": [{"id": "m\xff"}]}',
    ],
)
async def test_what_is_no_list_of_models_is_named_so(body: bytes) -> None:
    error = await refusal(web.Response(body=body, content_type="application/json"))

    assert error.code == "target_unreachable"
    assert error.message.endswith("/v1/models does not answer with a list of models")


async def test_an_answer_without_an_end_is_not_read_to_it() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        with suppress(ConnectionError):
            while True:
                await answer.write(b" " * 2**16)
        return answer

    error = await refusal(endless)

    assert error.code == "target_unreachable"
    assert error.message.endswith("/v1/models answers with more than 8 MiB")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_an_endpoint_that_has_moved_is_named(status: int) -> None:
    headers = {"location": "https://new.example/v1/models"}

    error = await refusal(web.Response(status=status, headers=headers))

    assert error.code == "target_unreachable"
    assert f"status {status}, it is at 'https://new.example/v1/models' now" in error.message


async def test_a_model_that_is_not_served_is_named_with_those_that_are() -> None:
    error = await refusal(web.json_response({"data": [{"id": "a"}, {"id": "b"}]}))

    assert (error.code, error.hint) == ("model_not_found", "it serves a, b")


def anthropics(num_models: int) -> web.Application:
    """An endpoint that takes no other key than Anthropic's do, and lists models by the page."""

    async def models(request: web.Request) -> web.Response:
        if request.headers.get("x-api-key") != "k" or "anthropic-version" not in request.headers:
            return web.Response(status=401)
        size = int(request.query.get("limit", "20"))
        return web.json_response({"data": [{"id": f"m{i}"} for i in range(num_models)][:size]})

    application = web.Application()
    application.router.add_get("/v1/models", models)
    return application


async def test_an_endpoint_that_speaks_only_messages() -> None:
    async with TestServer(anthropics(num_models=50)) as server:
        await preflight.check(target_of(server), {("m49", "k")}, {"chat", "messages"})
        with pytest.raises(ConfigError) as refused:
            await preflight.check(target_of(server), {("m1", "k")}, {"chat", "responses"})
    async with TestServer(anthropics(num_models=1)) as server:
        assert await preflight.only_model(target_of(server), "k", "messages") == "m0"

    assert refused.value.code == "key_refused"


async def test_other_endpoints_are_asked_for_no_more_than_openais() -> None:
    asked = []

    async def models(request: web.Request) -> web.Response:
        asked.append((request.path_qs, request.headers.get("authorization")))
        assert not {"x-api-key", "anthropic-version"} & {name.lower() for name in request.headers}
        return web.json_response({"data": [{"id": "m"}]})

    application = web.Application()
    application.router.add_get("/v1/models", models)
    async with TestServer(application) as server:
        await preflight.check(target_of(server), {("m", "k")}, {"chat"})
        assert await preflight.only_model(target_of(server), "k", "chat") == "m"

    assert asked == [("/v1/models", "Bearer k")] * 2
