"""Anthropic's own SDK against the gateway: it must understand every answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import anthropic
import pytest
from test_gateway_stack import (
    JSON,
    MODEL,
    EngineRequest,
    Stack,
    running_stack,
)

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": MODEL,
    "content": [{"type": "text", "text": "Paris"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
ASK = {"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path) as running:
        running.engine.script = answer_message
        yield running


@pytest.fixture
async def claude(stack: Stack) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        base_url=stack.url, api_key=stack.key, max_retries=0
    ) as client:
        yield client


async def answer_message(request: EngineRequest) -> None:
    # An id of the engine's own is not the request's.
    await request.respond(200, json.dumps(MESSAGE).encode(), JSON, (b"request-id", b"engine"))


async def test_a_message_has_the_requests_id(claude: anthropic.AsyncAnthropic) -> None:
    message = await claude.messages.create(**ASK, extra_headers={"x-request-id": "mine-1"})

    assert message.content[0].text == "Paris"
    assert message._request_id == "mine-1"


@pytest.mark.parametrize(
    "path", ["/v1/messages/batches", "/v1/messages/count_tokens/x", "/v1/models/nope"]
)
async def test_what_does_not_exist_is_an_error_with_the_requests_id(
    claude: anthropic.AsyncAnthropic, path: str
) -> None:
    with pytest.raises(anthropic.NotFoundError) as refused:
        await claude.get(path, cast_to=object)

    assert refused.value.request_id
    assert refused.value.body["type"] == "error"
    assert refused.value.body["error"]["type"] == "not_found_error"


async def test_models_are_listed_and_shown(claude: anthropic.AsyncAnthropic) -> None:
    page = await claude.models.list(limit=1)
    rows = [row async for row in page]

    assert [row.id for row in rows] == ["demo", "tuned"]
    assert (page.first_id, page.last_id, page.has_more) == ("demo", "tuned", False)
    assert (rows[1].type, rows[1].display_name, rows[1].lifecycle) == ("model", "tuned", "active")
    assert rows[1].created_at == datetime.fromtimestamp(1, UTC)
    assert await claude.models.retrieve("tuned") == rows[1]


async def test_others_see_the_list_in_openais_shape(stack: Stack) -> None:
    async with stack.get("/v1/models") as response:
        assert (await response.json())["object"] == "list"
        assert "request-id" not in response.headers
