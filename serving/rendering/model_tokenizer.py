"""The tokenizer and chat template of a real model, without its weights.

Neither transformers nor vLLM is imported: both load torch, which is ten seconds and half a gigabyte
in each replica. The token ids are the same, since the Rust tokenizer is; what transformers does
around it, the chat template, is repeated here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer as RustTokenizer

from serving.errors import ConfigError
from serving.rendering.refusal import RequestRefused
from serving.rendering.segments import SegmentedTokenizer
from serving.rendering.tokenizer import Chat, Message, flat_text
from serving.rendering.vocabulary import Vocabulary

_MAX_SEGMENT_BYTES = 64 * 1024 * 1024
"""Of token ids: some 16 million tokens, several times what a replica's KV cache holds."""
_CONTINUE_TAG = "CONTINUE_FINAL_MESSAGE_TAG "


class ModelTokenizer:
    """`tokenizer.json` and the chat template of a model folder."""

    def __init__(self, folder: Path) -> None:
        """Read a model folder.

        Raises:
            ConfigError: it has no tokenizer or chat template that can be used.
        """
        config = _read_json(folder / "tokenizer_config.json")
        self._tokenizer = _read_tokenizer(folder)
        self._segments = SegmentedTokenizer(self._tokenizer, max_bytes=_MAX_SEGMENT_BYTES)
        self._template = _compile(_read_template(folder, config))
        self._special_tokens = _special_tokens(config)
        self._wants_parts = self._probe_parts()
        self.vocab_size = self._tokenizer.get_vocab_size()
        self.max_chars_per_token = max(map(len, self._tokenizer.get_vocab()))
        self.vocabulary = Vocabulary.of(self._encode_alone, stop_id=self._stop_id(folder))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        ids: list[int] = self._segments.encode(text, add_special_tokens=add_special_tokens).tolist()
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=False)
        return text

    def token_strings(self, token_ids: Sequence[int]) -> list[str]:
        return [self._tokenizer.id_to_token(token_id) or "" for token_id in token_ids]

    def render(self, chat: Chat) -> list[int]:
        messages = [self._message(message) for message in chat.messages]
        try:
            text = self._render(chat, messages)
        except jinja2.TemplateError as error:
            raise RequestRefused(str(error)) from error
        return self.encode(text, add_special_tokens=chat.add_special_tokens)

    def _render(self, chat: Chat, messages: list[dict[str, Any]]) -> str:
        """Source: `render_jinja_template` in transformers/utils/chat_template_utils.py, 5.19."""
        if chat.continue_final_message:
            messages = deepcopy(messages)
            _tag_final_message(messages)
        # The template's names come last: a client cannot replace the conversation.
        names = {
            **self._special_tokens,
            **chat.template_kwargs,
            "messages": messages,
            "tools": list(chat.tools) if chat.tools is not None else None,
            "documents": chat.template_kwargs.get("documents"),
            "add_generation_prompt": chat.add_generation_prompt,
        }
        text = self._template.render(names)
        if not chat.continue_final_message:
            return text
        end = text.rindex(_CONTINUE_TAG.strip())
        kept = text[:end]
        return kept if text[end : end + len(_CONTINUE_TAG)] == _CONTINUE_TAG else kept.rstrip()

    def _message(self, message: Message) -> dict[str, Any]:
        """As vLLM hands it to the template.

        Source: `_parse_chat_message_content` and `_postprocess_messages` in
            vllm/renderers/chat_utils.py, vLLM 0.32.
        """
        role, content = message["role"], message.get("content")
        result: dict[str, Any] = {"role": role, "content": self._content(content)}
        if role == "assistant":
            if calls := message.get("tool_calls"):
                result["tool_calls"] = [_tool_call(call) for call in calls]
            if (reasoning := message.get("reasoning")) is not None:
                result["reasoning"] = result["reasoning_content"] = reasoning
        elif role == "tool":
            result["content"] = flat_text(content)
            if "tool_call_id" in message:
                result["tool_call_id"] = message["tool_call_id"]
        if isinstance(message.get("name"), str):
            result["name"] = message["name"]
        return result

    def _content(self, content: str | Sequence[Any] | None) -> str | list[dict[str, Any]]:
        if not self._wants_parts:
            return flat_text(content)
        parts = [content] if isinstance(content, str) else content or []
        texts = (part if isinstance(part, str) else part.get("text") for part in parts)
        return [{"type": "text", "text": text} for text in texts if text is not None]

    def _probe_parts(self) -> bool:
        """Whether the template reads lists of parts. vLLM decides by the template's syntax tree."""
        parts = [{"type": "text", "text": "first"}, {"type": "text", "text": "second"}]
        try:
            text = self._template.render(
                {**self._special_tokens, "messages": [{"role": "user", "content": parts}]}
            )
        except (jinja2.TemplateError, TypeError):
            return False
        return "first" in text and "'text'" not in text and '"text"' not in text

    def _encode_alone(self, text: str) -> list[int]:
        return self.encode(text, add_special_tokens=False)

    def _stop_id(self, folder: Path) -> int:
        stop = _read_json(folder / "generation_config.json").get("eos_token_id")
        stop = stop[0] if isinstance(stop, list) else stop
        if stop is None:
            stop = self._tokenizer.token_to_id(self._special_tokens.get("eos_token", ""))
        if stop is None:
            raise _unusable("its configuration names no end-of-sequence token")
        return int(stop)


class _GenerationBlocks(jinja2.ext.Extension):
    """`{% generation %}` marks what an assistant said, for training; its body is rendered."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def _compile(template: str) -> jinja2.Template:
    """Source: `_cached_compile_jinja_template` in transformers/utils/chat_template_utils.py."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationBlocks, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(template)


def _to_json(value: Any, ensure_ascii: bool = False, **style: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **style)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now(UTC).astimezone().strftime(pattern)


def _tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """With its arguments as an object, which is what templates expect."""
    function = call.get("function")
    if not isinstance(function, Mapping):
        raise RequestRefused(
            "chat completions only support assistant tool_calls of type 'function'. "
            "(parameter=tool_calls)",
            param="tool_calls",
        )
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = {}
    arguments = arguments if isinstance(arguments, dict) else {}
    return {**call, "function": {**function, "arguments": arguments}}


def _tag_final_message(messages: list[dict[str, Any]]) -> None:
    content = messages[-1]["content"]
    if isinstance(content, str):
        messages[-1]["content"] = content + _CONTINUE_TAG
    elif content:
        content[-1]["text"] += _CONTINUE_TAG
    else:
        raise RequestRefused("continue_final_message is set but the final message has no text")


def _read_tokenizer(folder: Path) -> RustTokenizer:
    try:
        return RustTokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the Rust side raises plain Exceptions
        raise _unusable("it has no tokenizer.json that can be read") from error


def _read_template(folder: Path, config: Mapping[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text()
    template = config.get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    if not isinstance(template, str):
        raise _unusable("it has no chat template")
    return template


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` and the like, which templates may write."""
    tokens = {}
    for name, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            tokens[name] = text
    return tokens


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise _unusable(f"its {path.name} is not JSON") from error
    return content if isinstance(content, dict) else {}


def _unusable(reason: str) -> ConfigError:
    return ConfigError(
        f"the model's tokenizer cannot be simulated: {reason}",
        code="tokenizer_unusable",
        param="weights",
        hint="remove weights: a simulated engine then uses a tokenizer of its own",
    )
