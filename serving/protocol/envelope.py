"""The part of a request body that the gateway reads: enough to route it, and to refuse what would
crash an engine's own parser."""

from __future__ import annotations

import re
from codecs import utf_8_decode
from itertools import accumulate

import msgspec

from serving.errors import RequestError
from serving.protocol.outside_strings import outside_strings

_LONE_SURROGATE = re.compile(
    rb"(?:[^\\]++|\\[^u]|\\u(?![dD][89a-fA-F])|\\u[dD][89abAB]..\\u[dD][c-fC-F]..)*+\\u", re.DOTALL
)
"""Everything before an escape of half a pair, and its beginning."""
_AS_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""+1 and -1 as signed bytes."""
_UTF8_SLICE_BYTES = 65_536
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


class Envelope(msgspec.Struct, frozen=True):
    """Routing fields common to every inference API. Everything else passes through unread.

    The last three are texts or `None`; whatever else the client has put there stands as it came.
    """

    model: str
    stream: bool | None = None
    prompt_cache_key: str | msgspec.Raw | None = None
    user: str | msgspec.Raw | None = None
    cache_salt: str | msgspec.Raw | None = None

    @property
    def session(self) -> str | None:
        """What the client says belongs together, if it is text; engines judge the rest."""
        keys = (self.prompt_cache_key, self.user)
        return next((key for key in keys if isinstance(key, str) and key), None)


_NULL = msgspec.Raw(b"null")


class _Fields(msgspec.Struct):
    """Those of an envelope. What need not be a text is left as it came: a list of millions would
    take twenty times the body's memory before anybody refuses it."""

    model: str
    stream: bool | None = None
    prompt_cache_key: msgspec.Raw = _NULL
    user: msgspec.Raw = _NULL
    cache_salt: msgspec.Raw = _NULL


_decoder = msgspec.json.Decoder(_Fields)
_text_decoder = msgspec.json.Decoder(str)


def read_envelope(body: bytes, *, max_depth: int) -> Envelope:
    """The routing fields of a JSON body.

    Raises:
        RequestError: `invalid_utf8`, `json_too_deep`, `invalid_json`, `missing_model` or
            `invalid_type`, with the field at fault in `param`.

    >>> read_envelope(b'{"model": "demo", "messages": []}', max_depth=8)
    Envelope(model='demo', stream=None, prompt_cache_key=None, user=None, cache_salt=None)
    """
    _check_utf8(body)
    _check_depth(body, max_depth=max_depth)
    try:
        fields = _decoder.decode(body)
        return Envelope(
            fields.model,
            fields.stream,
            _text_of(fields.prompt_cache_key),
            _text_of(fields.user),
            _text_of(fields.cache_salt),
        )
    except msgspec.ValidationError as error:
        raise _explain(body, error) from error
    except (msgspec.DecodeError, RecursionError) as error:
        if _LONE_SURROGATE.match(body):
            raise RequestError(
                "The body is not valid JSON: an escape from \\ud800 to \\udfff stands alone; such "
                "escapes make a character in pairs only",
                code="invalid_json",
            ) from error
        raise RequestError(f"The body is not valid JSON: {error}", code="invalid_json") from error


def with_cache_salt(body: bytes, salt: str) -> bytes:
    """The body with this salt in the place of the client's.

    A field that comes again counts, as it does for every JSON reader that engines use; so the body
    is neither parsed nor written anew.

    Args:
        body: what `read_envelope` has taken, which is an object that is not empty.
        salt: free of characters that JSON escapes.

    >>> with_cache_salt(b'{"model": "demo", "cache_salt": "mine"} ', "f00")
    b'{"model": "demo", "cache_salt": "mine","cache_salt":"f00"}'
    """
    end = body.rindex(b"}")
    return b"".join((memoryview(body)[:end], b',"cache_salt":"', salt.encode(), b'"}'))


def _text_of(raw: msgspec.Raw) -> str | msgspec.Raw | None:
    if raw is _NULL:
        return None
    beginning = bytes(memoryview(raw)[:4])
    if beginning.startswith(b'"'):
        return _text_decoder.decode(raw)
    return None if beginning == b"null" else raw


def _check_utf8(body: bytes) -> None:
    """Decoded in slices: one emoji makes a text of four bytes a character."""
    if body.isascii():
        return
    start = 0
    while start < len(body):
        end = start + _UTF8_SLICE_BYTES
        try:
            _, num_bytes = utf_8_decode(body[start:end], "strict", end >= len(body))
        except UnicodeDecodeError as error:
            raise RequestError(
                f"The body is not valid UTF-8 (byte {start + error.start})", code="invalid_utf8"
            ) from error
        start += num_bytes  # less than the slice if a character goes on behind it


def _check_depth(body: bytes, *, max_depth: int) -> None:
    """Refuse nesting beyond `max_depth` without building a single object.

    Everything but brackets is dropped; what is left are steps up and down, whose running sum is the
    depth. All of it runs in C and in slices, so that a thread that does it lets others run.
    Unbalanced brackets are the decoder's to refuse.
    """
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return
    depth = 0
    for piece in outside_strings(body):
        steps = memoryview(piece.translate(_AS_STEPS, _NOT_BRACKETS)).cast("b")
        depths = list(accumulate(steps, initial=depth))
        if max(depths) > max_depth:
            raise RequestError(
                f"The body nests deeper than {max_depth} levels", code="json_too_deep"
            )
        depth = depths[-1]


def _explain(body: bytes, error: msgspec.ValidationError) -> RequestError:
    """Name the field at fault in the words of the API rather than of the decoder."""
    text = str(error)
    if not body.lstrip().startswith(b"{"):
        return RequestError("The body must be a JSON object", code="invalid_type")
    if "missing required field `model`" in text:
        return RequestError(
            "The field `model` is missing; GET /v1/models lists the names",
            code="missing_model",
            param="model",
        )
    param = "stream" if "$.stream" in text else "model"
    expected = "a boolean" if param == "stream" else "a string"
    return RequestError(f"The field `{param}` must be {expected}", code="invalid_type", param=param)
