"""Text to token ids: what a simulated engine needs of a tokenizer, and one that needs no model."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from serving.rendering.vocabulary import Vocabulary

Message = Mapping[str, Any]
"""A chat message whose `content` is a text."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation and how to turn it into a prompt."""

    messages: Sequence[Message]
    """As clients send them: `content` is a text, a list of parts, or `None`."""
    tools: Sequence[Mapping[str, Any]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)


class Tokenizer(Protocol):
    """A model's tokenizer with its chat template."""

    @property
    def vocabulary(self) -> Vocabulary:
        """What answers are made of."""

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""

    @property
    def max_chars_per_token(self) -> int:
        """No token stands for more characters."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a plain prompt."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""

    def token_strings(self, token_ids: Sequence[int]) -> list[str]:
        """The vocabulary's own name of each token."""

    def render(self, chat: Chat) -> list[int]:
        """Token ids of a conversation.

        Raises:
            RequestRefused: the conversation cannot be rendered.
        """


_PIECE = re.compile(r" ?[^\W\d_]{1,6}|\d{1,3}| ?(?:[^\w\s]|_){1,4}|\s{1,4}|.", re.DOTALL)
_END = 0
_CONTINUED = 1
_ROLES = {"system": 2, "user": 3, "assistant": 4, "tool": 5, "developer": 6}
_SPECIAL = {_END: "<|end|>", _CONTINUED: "<|other|>"} | {
    token_id: f"<|{role}|>" for role, token_id in _ROLES.items()
}
_FIRST_PIECE_ID = 16
_VOCAB_SIZE = 131_072
_MAX_KNOWN_PIECES = 32_768


class PieceTokenizer:
    """Pieces of words as tokens, about as many as a real tokenizer makes of English text.

    A piece's id is a hash, the same in every process. Ids decode to the pieces that were seen
    lately; an unknown one is a question mark.

    >>> tokenizer = PieceTokenizer()
    >>> ids = tokenizer.encode("A simulated engine, 2026.")
    >>> tokenizer.token_strings(ids)
    ['A', ' simula', 'ted', ' engine', ',', ' ', '202', '6', '.']
    >>> tokenizer.decode(ids)
    'A simulated engine, 2026.'
    """

    vocab_size = _VOCAB_SIZE
    max_chars_per_token = 7

    def __init__(self) -> None:
        self._known = _Pieces()
        self.vocabulary = Vocabulary.of(self.encode, stop_id=_END)
        self._answers = dict(self.vocabulary.openers + self.vocabulary.words)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a plain prompt; there is nothing to add to it."""
        del add_special_tokens
        known = self._known
        return [known[piece] for piece in _PIECE.findall(text)]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(self.token_strings(token_ids))

    def token_strings(self, token_ids: Sequence[int]) -> list[str]:
        return [self._piece_of(token_id) for token_id in token_ids]

    def render(self, chat: Chat) -> list[int]:
        """A role's mark, the text, an end mark for each message; answers keep their ids."""
        token_ids: list[int] = []
        if chat.tools:
            token_ids += [_ROLES["system"], *self.encode(json.dumps(list(chat.tools))), _END]
        for message in chat.messages:
            token_ids += [_ROLES.get(message["role"], _CONTINUED), *self.encode(_text(message))]
            token_ids.append(_END)
        if chat.continue_final_message:
            return token_ids[:-1]
        return [*token_ids, _ROLES["assistant"]] if chat.add_generation_prompt else token_ids

    def _piece_of(self, token_id: int) -> str:
        piece = _SPECIAL.get(token_id) or self._known.by_id.get(token_id)
        return piece or self._answers.get(token_id, "?")


class _Pieces(dict[str, int]):
    """The id of each piece; forgets all of them when there are too many."""

    def __init__(self) -> None:
        super().__init__()
        self.by_id: dict[int, str] = {}

    def __missing__(self, piece: str) -> int:
        if len(self) >= _MAX_KNOWN_PIECES:
            self.clear()
            self.by_id.clear()
        code = zlib.crc32(piece.encode(errors="surrogatepass"))
        token_id = _FIRST_PIECE_ID + code % (_VOCAB_SIZE - _FIRST_PIECE_ID)
        self[piece] = token_id
        self.by_id[token_id] = piece
        return token_id


def _text(message: Message) -> str:
    """What a model would read of a message: its text parts and its tool calls."""
    text = flat_text(message.get("content"))
    calls = message.get("tool_calls")
    return f"{text}{json.dumps(calls)}" if calls else text


def flat_text(content: str | Sequence[Any] | None) -> str:
    """A message's content as one text, its parts on lines of their own.

    Source: `_parse_chat_message_content_parts` in vllm/renderers/chat_utils.py, vLLM 0.32.

    >>> flat_text([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])
    'a\\nb'
    """
    if content is None or isinstance(content, str):
        return content or ""
    texts = (part if isinstance(part, str) else part.get("text") for part in content)
    return "\n".join(text for text in texts if text is not None)
