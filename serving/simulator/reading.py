"""From the bytes of a request to a checked body, with vLLM's and FastAPI's own error texts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from serving.rendering.refusal import RequestRefused

BodyT = TypeVar("BodyT", bound=BaseModel)

_MAX_REPORTED_ERRORS = 10
_MAX_INPUT_CHARS = 200
_MAX_ERROR_CHARS = 1000
_BRACKETED = re.compile(r"[\[\]{}()]")
_INNER_LOCATIONS = frozenset(
    {"str", "int", "float", "bool", "bytes", "list", "dict", "none", "union", "nullable", "default"}
)


def read_body(kind: type[BodyT], raw: bytes, *, content_type: str) -> BodyT:
    """A request's body, checked.

    Raises:
        RequestRefused: it is not JSON, or not what the endpoint expects.

    >>> from serving.rendering.bodies import DetokenizeBody
    >>> read_body(DetokenizeBody, b'{"tokens": [1]}', content_type="application/json").tokens
    [1]
    """
    media_type = content_type.lower().split(";", maxsplit=1)[0]
    if media_type != "application/json":
        raise _refused(["Unsupported Media Type: Only 'application/json' is allowed"])
    data = _parse(raw)
    try:
        return kind.model_validate(data, from_attributes=True)
    except ValidationError as error:
        errors = [
            {**found, "loc": ("body", *found["loc"])} for found in error.errors(include_url=False)
        ]
        raise _refused(errors) from error


def _parse(raw: bytes) -> Any:
    if not raw:
        raise _refused(
            [{"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}]
        )
    try:
        return json.loads(raw)
    except json.JSONDecodeError as error:
        found = {
            "type": "json_invalid",
            "loc": ("body", error.pos),
            "msg": "JSON decode error",
            "input": {},
            "ctx": {"error": error.msg},
        }
        raise _refused([found]) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise RequestRefused(
            "There was an error parsing the body", error_type="Bad Request"
        ) from error


def _refused(errors: Sequence[Mapping[str, Any] | str]) -> RequestRefused:
    """Source: vllm/entrypoints/serve/exception_handling/handlers/validation.py, vLLM 0.32."""
    label = "error" if len(errors) == 1 else "errors"
    lines = [f"{len(errors)} validation {label}:"]
    lines += [f"  {_describe(error)}" for error in errors[:_MAX_REPORTED_ERRORS]]
    if (more := len(errors) - _MAX_REPORTED_ERRORS) > 0:
        lines.append(f"  ...and {more} more {label}")
    first = errors[0]
    param = None if isinstance(first, str) else _field_of(first["loc"])
    return RequestRefused("\n".join(lines), param=param, error_type="Bad Request")


def _describe(error: Mapping[str, Any] | str) -> str:
    if isinstance(error, str):
        return error
    short = {**error, "loc": _field_of(error["loc"])}
    if "input" in short:
        short["input"] = _summary(short["input"])
    text = str(short)
    return text if len(text) <= _MAX_ERROR_CHARS else text[:_MAX_ERROR_CHARS] + "...[truncated]"


def _field_of(location: Sequence[int | str]) -> str:
    """A dotted path without the names of pydantic's own wrappers.

    >>> _field_of(("body", "stop", "list[str]", 0))
    'body.stop.0'
    """
    parts = [str(part) for part in location]
    kept = [p for p in parts if not _BRACKETED.search(p) and p.lower() not in _INNER_LOCATIONS]
    return ".".join(kept or parts)


def _summary(value: object) -> object:
    if isinstance(value, list | tuple | set | dict):
        return f"<{type(value).__name__} of {len(value)} items>"
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= _MAX_INPUT_CHARS else text[:_MAX_INPUT_CHARS] + "...[truncated]"
