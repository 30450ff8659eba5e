"""Served names, and the description that is loaded once it can be."""

from __future__ import annotations

from typing import Any

import pytest

from serving.errors import EngineError, RequestError
from serving.gateway.catalog import Catalog
from serving.settings.model import ModelSettings
from serving.settings.weights import WeightSettings

DEMO = WeightSettings(source="demo")
MODELS = {
    "mistral-7b": ModelSettings(weights=DEMO, adapters={"mistral-7b-sql": "/lora"}),
    "org/large": ModelSettings(weights=DEMO),
}


class Loader:
    """An engine that fails a number of times before it describes itself."""

    def __init__(self, num_failures: int = 0) -> None:
        self.num_failures = num_failures
        self.num_calls = 0

    async def __call__(self) -> dict[str, Any]:
        self.num_calls += 1
        if self.num_calls <= self.num_failures:
            raise EngineError("down", code="engine_unavailable")
        return {"paths": {}}


def catalog(loader: Loader | None = None) -> Catalog:
    return Catalog(MODELS, created=7, load_openapi=loader or Loader())


@pytest.mark.parametrize(
    ("name", "model"),
    [("mistral-7b", "mistral-7b"), ("mistral-7b-sql", "mistral-7b"), ("org/large", "org/large")],
)
def test_every_served_name_leads_to_its_model(name: str, model: str) -> None:
    assert catalog().resolve(name) == model


def test_the_list_holds_models_and_adapters() -> None:
    entries = catalog().list()["data"]

    assert [(entry["id"], entry.get("parent")) for entry in entries] == [
        ("mistral-7b", None), ("mistral-7b-sql", "mistral-7b"), ("org/large", None)
    ]  # fmt: skip
    assert [catalog().show(entry["id"]) for entry in entries] == entries
    assert {entry["created"] for entry in entries} == {7}


def test_anthropics_list_holds_the_same_names() -> None:
    page = catalog().list(for_anthropic=True)

    names = [entry["id"] for entry in page["data"]]
    assert names == [entry["id"] for entry in catalog().list()["data"]]
    assert [catalog().show(name, for_anthropic=True) for name in names] == page["data"]
    assert {entry["created_at"] for entry in page["data"]} == {"1970-01-01T00:00:07Z"}


@pytest.mark.parametrize(
    ("name", "hint"),
    [("mistral-7B", "did you mean `mistral-7b`?"), ("gpt-9", "GET /v1/models"), ("", "GET /v1/")],
)
def test_an_unknown_name_gets_a_hint(name: str, hint: str) -> None:
    for ask in (catalog().resolve, catalog().show):
        with pytest.raises(RequestError, match="does not exist") as caught:
            ask(name)
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
        assert hint in caught.value.message


def test_a_huge_name_is_not_repeated() -> None:
    with pytest.raises(RequestError) as caught:
        catalog().resolve("x" * 1_000_000)
    assert len(caught.value.message) < 300


async def test_the_description_is_loaded_once() -> None:
    loader = Loader()
    described = catalog(loader)

    assert await described.openapi() == await described.openapi() == {"paths": {}}
    assert loader.num_calls == 1


async def test_a_failed_load_is_tried_again() -> None:
    described = catalog(Loader(num_failures=1))

    with pytest.raises(EngineError):
        await described.openapi()
    assert await described.openapi() == {"paths": {}}
