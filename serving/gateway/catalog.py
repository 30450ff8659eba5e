"""The models behind the endpoint, under the names that clients use."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from serving.core.types import ModelId
from serving.errors import RequestError
from serving.protocol import anthropic
from serving.protocol.openai import model_entry, model_list
from serving.settings.model import ModelSettings


class Catalog:
    """Served names, LoRA adapters included, and the published API description.

    Args:
        models: the models of the settings.
        created: Unix time that the model list reports, equal in all gateways.
        load_openapi: builds the API description; called until it succeeds once.
    """

    def __init__(
        self,
        models: Mapping[str, ModelSettings],
        *,
        created: int,
        load_openapi: Callable[[], Awaitable[dict[str, Any]]],
    ) -> None:
        self._model_of: dict[str, ModelId] = {}
        self._entries: dict[str, dict[str, Any]] = {}
        self._anthropic_entries: dict[str, dict[str, Any]] = {}
        for model_id, model in models.items():
            for name in (model_id, *model.adapters):
                parent = None if name == model_id else model_id
                self._model_of[name] = ModelId(model_id)
                self._entries[name] = model_entry(name, created=created, parent=parent)
                self._anthropic_entries[name] = anthropic.model_entry(name, created=created)
        self._load_openapi = load_openapi
        self._openapi: dict[str, Any] | None = None

    def resolve(self, name: str) -> ModelId:
        """The model that serves a name.

        Raises:
            RequestError: `model_not_found`, with the closest served name where there is one.
        """
        if name in self._model_of:
            return self._model_of[name]
        close = difflib.get_close_matches(name[:128], self._model_of, n=1)
        suggestion = f"did you mean `{close[0]}`?" if close else "GET /v1/models lists the names"
        raise RequestError(
            f"The model `{name[:128]}` does not exist; {suggestion}",
            code="model_not_found",
            param="model",
        )

    def list(self, *, for_anthropic: bool = False) -> dict[str, Any]:
        """All served names, as `GET /v1/models` answers in OpenAI's dialect or Anthropic's."""
        if for_anthropic:
            return anthropic.model_list(tuple(self._anthropic_entries.values()))
        return model_list(self._entries.values())

    def show(self, name: str, *, for_anthropic: bool = False) -> dict[str, Any]:
        """One entry of the list.

        Raises:
            RequestError: `model_not_found`.
        """
        self.resolve(name)
        return (self._anthropic_entries if for_anthropic else self._entries)[name]

    async def openapi(self) -> dict[str, Any]:
        """The description of every path that is served."""
        if self._openapi is None:
            self._openapi = await self._load_openapi()
        return self._openapi
