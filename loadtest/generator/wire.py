"""What every API has in common: a request that is written, and an answer in parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple, Protocol, TypeVar

import msgspec

NumTokens = Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]
"""A count in a usage; beyond the largest context there is, it counts nothing."""


class Usage(NamedTuple):
    """Tokens by the server's count; `None` where it has said nothing (yet)."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None

    def updated(self, later: Usage) -> Usage:
        """What is known after another part of the answer.

        >>> Usage(5).updated(Usage(None, None, 3))
        Usage(prompt_tokens=5, cached_tokens=None, output_tokens=3)
        """
        return Usage(*(old if new is None else new for old, new in zip(self, later, strict=True)))

    def believed(self) -> Usage:
        """Without cached tokens that are more than the prompt had: they are a share of nothing.

        >>> Usage(5, 5).believed().cached_tokens, Usage(5, 6).believed().cached_tokens
        (5, None)
        """
        fits = (self.cached_tokens or 0) <= (self.prompt_tokens or 0)
        return self if fits else self._replace(cached_tokens=None)


class Part(NamedTuple):
    """What an event of a stream, or a whole answer, brought. `error` is a short code."""

    has_tokens: bool = False
    text: str = ""
    usage: Usage | None = None
    error: str | None = None
    is_last: bool = False


DONE = Part(is_last=True)

OPENAI_END = b"[DONE]"
"""What follows the last event of OpenAI's streams."""


class Counted(Protocol):
    """A usage as one API writes it."""

    def usage(self) -> Usage:
        """The same in our terms."""


def usage_of(counted: Counted | None) -> Usage | None:
    """The usage that came with a part, if one did."""
    return None if counted is None else counted.usage()


class Message(NamedTuple):
    """One message of a conversation; `content` is a JSON string with its quotes."""

    role: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Wording:
    """What is the same in all requests of one part of a workload."""

    model: str
    is_stream: bool
    ignores_eos: bool
    temperature: float


@dataclass(frozen=True, slots=True)
class Wire:
    """One API. `fields` are those of every request; `limit` names the field for `max_tokens`;
    `key_header` is where its servers look for the API key, if not only in Authorization, and
    `models` where they list their models. `knows_ignore_eos`: vLLM obeys it in this API."""

    path: str
    limit: str
    fields: Callable[[Wording], dict[str, Any]]
    prompt: Callable[[Sequence[Message]], bytes]
    read_event: Callable[[bytes], Part]
    read_whole: Callable[[bytes], Part]
    headers: Mapping[str, str] = field(default_factory=dict)
    key_header: str | None = None
    knows_ignore_eos: bool = True
    models: str = "/v1/models"

    def identity(self, key: str | None) -> dict[str, str]:
        """The headers that say who asks, and by which version of the API."""
        if key is None:
            return dict(self.headers)
        own = {} if self.key_header is None else {self.key_header: key}
        return {"authorization": f"Bearer {key}", **own, **self.headers}

    def head(self, wording: Wording) -> bytes:
        """The beginning of the JSON body of every request, up to the prompt."""
        fields = {"model": wording.model, "stream": wording.is_stream, **self.fields(wording)}
        return msgspec.json.encode(fields)[:-1]

    def body(self, head: bytes, messages: Sequence[Message], max_tokens: int) -> bytes:
        """A whole JSON body."""
        limit = b',"%b":%d,' % (self.limit.encode(), max_tokens)
        return b"".join((head, limit, self.prompt(messages), b"}"))

    def refusal(self, body: bytes, status: int) -> str:
        """A short code for an answer that is no success."""
        try:
            return error_code(_read_refusal(body).error) or f"http_{status}"
        except UnreadableError:
            return f"http_{status}"


class UnreadableError(ValueError):
    """What has come is not what this API answers with."""


_T = TypeVar("_T")


def reader(shape: type[_T]) -> Callable[[bytes], _T]:
    decoder = msgspec.json.Decoder(shape)

    def read(data: bytes) -> _T:
        try:
            return decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UnreadableError from error

    return read


def vllm_fields(wording: Wording) -> dict[str, Any]:
    fields: dict[str, Any] = {"temperature": wording.temperature}
    return {**fields, "ignore_eos": True} if wording.ignores_eos else fields


def conversation(field: bytes) -> Callable[[Sequence[Message]], bytes]:
    def write(messages: Sequence[Message]) -> bytes:
        written = b",".join(
            b'{"role":"%b","content":%b}' % (message.role.encode(), message.content)
            for message in messages
        )
        return b'"%b":[%b]' % (field, written)

    return write


class _Refusal(msgspec.Struct):
    error: Any = None


_read_refusal = reader(_Refusal)
_MAX_CODE = 60


def error_code(error: object) -> str | None:
    """A short code out of an error object: its `code`, else its `type`.

    >>> error_code({"message": "Too many", "type": "overloaded_error", "code": None})
    'overloaded_error'
    >>> error_code("oops") is None
    True
    """
    fields = error if isinstance(error, dict) else {}
    for name in ("code", "type"):
        if isinstance(code := fields.get(name), str) and code:
            return code[:_MAX_CODE]
    return None
