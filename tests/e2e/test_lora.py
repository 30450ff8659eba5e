"""A LoRA adapter is a model of its own to clients."""

from __future__ import annotations

from typing import Any

import httpx

from e2e.harness import MODEL, chat
from e2e.lora import ADAPTER


def answer(client: httpx.Client, model: str) -> dict[str, Any]:
    body = {**chat(max_tokens=12), "model": model}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


def text_of(document: dict[str, Any]) -> str:
    return str(document["choices"][0]["message"]["content"])


def test_it_is_listed_with_its_base_model(client: httpx.Client) -> None:
    rows = {row["id"]: row for row in client.get("/v1/models").json()["data"]}
    assert rows[ADAPTER]["parent"] == MODEL
    assert "parent" not in rows[MODEL]
    assert client.get(f"/v1/models/{ADAPTER}").json()["id"] == ADAPTER


def test_it_changes_the_answer_and_leaves_the_base_model_alone(client: httpx.Client) -> None:
    before = answer(client, MODEL)
    adapted = answer(client, ADAPTER)
    after = answer(client, MODEL)
    assert adapted["model"] == ADAPTER
    assert text_of(adapted) != text_of(before)
    assert text_of(after) == text_of(before)


def test_both_stream_side_by_side(client: httpx.Client) -> None:
    body = {**chat(max_tokens=12, stream=True), "model": ADAPTER}
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        text = text_of(answer(client, MODEL))
        events = [line for line in response.iter_lines() if line.startswith("data: ")]
    assert text
    assert events[-1] == "data: [DONE]"
