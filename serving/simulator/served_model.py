"""The model as clients know it: its names, what it can do, its card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from serving.rendering.refusal import RequestRefused


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the API tells of the model."""

    name: str
    adapters: Mapping[str, str]
    """LoRA adapters by served name, each with its path."""
    max_model_len: int
    created: int
    """Unix seconds."""
    version: str
    """The vLLM release whose interface this is."""
    has_tool_parser: bool

    def check_name(self, name: str | None) -> None:
        """Refuse a request for another model; one that names none means this.

        Raises:
            RequestRefused: neither the model nor an adapter has this name.
        """
        if not name or name == self.name or name in self.adapters:
            return
        raise RequestRefused(
            f"The model `{name}` does not exist. Valid aliases: {self.name}.",
            param="model",
            status=404,
            error_type="NotFoundError",
        )

    def check_tool_choice(self, choice: str | Mapping[str, Any] | None) -> None:
        """Refuse a chat that wants tools called which cannot be.

        Raises:
            RequestRefused: vLLM has no parser for the calls, or would have to make one.
        """
        if choice in (None, "none"):
            return
        if self.has_tool_parser:
            if choice != "auto":
                raise RequestRefused(
                    "a simulated engine calls no tools: tool_choice must be auto or none",
                    param="tool_choice",
                )
            return
        if choice == "auto":
            raise RequestRefused(
                '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to '
                "be set"
            )
        named = isinstance(choice, Mapping) and choice.get("function", {}).get("name")
        described = f'function "{named}"' if named else f'"{choice}"'
        raise RequestRefused(f"tool_choice={described} requires --tool-call-parser to be set")

    def served_name(self, name: str | None) -> str:
        """The name under which a request for `name` is answered."""
        return self.lora_name(name) or self.name

    def lora_name(self, name: str | None) -> str | None:
        """The adapter that a request for `name` wants, if any."""
        return name if name in self.adapters else None

    def cards(self) -> Mapping[str, Any]:
        """What `/v1/models` answers."""
        cards = [self._card(self.name, root=self.name, max_model_len=self.max_model_len)]
        cards += [
            self._card(name, root=path, parent=self.name) for name, path in self.adapters.items()
        ]
        return {"object": "list", "data": cards}

    def _card(
        self, name: str, *, root: str, parent: str | None = None, max_model_len: int | None = None
    ) -> dict[str, Any]:
        permission = {
            "id": f"modelperm-{uuid4().hex}",
            "object": "model_permission",
            "created": self.created,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        return {
            "id": name,
            "object": "model",
            "created": self.created,
            "owned_by": "vllm",
            "root": root,
            "parent": parent,
            "max_model_len": max_model_len,
            "permission": [permission],
        }
