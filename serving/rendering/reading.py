"""The token ids of the prompt in a request's body, or nothing where there is no telling."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydantic import ValidationError

from serving.rendering.conversations import chat_of, chat_of_messages, chat_of_responses
from serving.rendering.messages_body import MessagesBody
from serving.rendering.openai_bodies import ChatBody, CompletionBody
from serving.rendering.refusal import RequestRefused
from serving.rendering.responses_body import ResponsesBody
from serving.rendering.tokenizer import Tokenizer


def has_prompt(path: str) -> bool:
    """Whether requests to this path generate from a prompt, whose blocks are cached."""
    return path in _READERS


def prompt_of(path: str, body: bytes, tokenizer: Tokenizer) -> list[int] | None:
    """The token ids that the engine will make of the body's prompt; of several, the first's.

    `None` for a body that the engine will refuse, in its own words.

    >>> from serving.rendering.tokenizer import PieceTokenizer
    >>> body = b'{"model": "m", "prompt": [5, 6, 7]}'
    >>> prompt_of("/v1/completions", body, PieceTokenizer())
    [5, 6, 7]
    >>> prompt_of("/v1/completions", b'{"model": "m", "prompt": 5}', PieceTokenizer()) is None
    True
    """
    read = _READERS.get(path)
    if read is None:
        return None
    try:
        return read(body, tokenizer)
    except (ValidationError, RequestRefused, UnicodeError):
        return None


def _of_chat(body: bytes, tokenizer: Tokenizer) -> list[int]:
    return tokenizer.render(chat_of(ChatBody.model_validate_json(body)))


def _of_completion(body: bytes, tokenizer: Tokenizer) -> list[int] | None:
    parsed = CompletionBody.model_validate_json(body)
    given = parsed.prompt or []
    texts = [given] if isinstance(given, str) else [item for item in given if isinstance(item, str)]
    if texts:
        return tokenizer.encode(texts[0], add_special_tokens=parsed.add_special_tokens)
    lists = [item for item in given if isinstance(item, list)]
    return lists[0] if lists else [item for item in given if isinstance(item, int)]


def _of_responses(body: bytes, tokenizer: Tokenizer) -> list[int]:
    return tokenizer.render(chat_of_responses(ResponsesBody.model_validate_json(body)))


def _of_messages(body: bytes, tokenizer: Tokenizer) -> list[int]:
    return tokenizer.render(chat_of_messages(MessagesBody.model_validate_json(body)))


_READERS: Mapping[str, Callable[[bytes, Tokenizer], list[int] | None]] = {
    "/v1/chat/completions": _of_chat,
    "/v1/completions": _of_completion,
    "/v1/responses": _of_responses,
    "/v1/messages": _of_messages,
}
