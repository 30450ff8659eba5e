"""The one mapping from Galerne's errors to HTTP, and from an engine's errors to Galerne's."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from serving.errors import (
    AccessError,
    EngineError,
    Overloaded,
    QuotaExceeded,
    RequestError,
    ServingError,
)
from serving.protocol.anthropic import error_envelope
from serving.protocol.openai import error_body

_STATUS_BY_CODE = {
    "operator_key_required": 403,
    "model_not_found": 404,
    "unknown_path": 404,
    "method_not_allowed": 405,
    "upload_timeout": 408,
    "body_too_large": 413,
    "headers_too_large": 431,
    "unsupported_media_type": 415,
    "unsupported_content_encoding": 415,
    "previous_response_not_found": 404,
    "engine_overloaded": 429,
    "engine_timeout": 504,
    "unsupported_by_model": 404,
}
_STATUS_BY_CLASS: tuple[tuple[type[ServingError], int], ...] = (
    (RequestError, 400),
    (AccessError, 401),
    (QuotaExceeded, 429),
    (Overloaded, 503),
    (EngineError, 502),
)
_TYPE_BY_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    415: "invalid_request_error",
    431: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_ENGINE_CODE_BY_STATUS = {
    400: "invalid_request",
    404: "unsupported_by_model",
    405: "unsupported_by_model",
    413: "body_too_large",
    415: "unsupported_media_type",
    422: "invalid_request",
    501: "unsupported_by_model",
}
_GENERATION_FAILED = "Internal server error"
"""What vLLM says when one request failed and the engine lives on: most often its grammar cannot be
compiled, or leads nowhere. Source: `GenerationError` raised in
vllm/entrypoints/generate/base/serving.py, vLLM 0.32."""
_NAMED_PARAM = re.compile(r" \(parameter=([\w.]+)(?:, value=.*)?\)$", re.DOTALL)
_PROMPT_PARAMS = frozenset({"input_tokens", "input_text"})
_COMPLETION_PARAMS = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens"})
"""Fields that vLLM names when a prompt, or its completion, does not fit the model.
Source: vllm/renderers/params.py and vllm/v1/engine/input_processor.py, vLLM 0.32."""


def status_of(error: ServingError) -> int:
    """The HTTP status of an error.

    >>> status_of(RequestError("", code="model_not_found"))
    404
    >>> status_of(Overloaded("", code="model_not_ready"))
    503
    """
    if error.code in _STATUS_BY_CODE:
        return _STATUS_BY_CODE[error.code]
    return next((status for kind, status in _STATUS_BY_CLASS if isinstance(error, kind)), 500)


def type_of(status: int) -> str:
    """The `type` of an error with this status.

    >>> type_of(503), type_of(500)
    ('overloaded_error', 'api_error')
    """
    return _TYPE_BY_STATUS.get(status, "api_error")


def body_of(error: ServingError, *, anthropic: bool = False) -> dict[str, Any]:
    """The JSON body of an error, in OpenAI's dialect or Anthropic's."""
    error_type = type_of(status_of(error))
    body = error_body(error.message, error_type=error_type, code=error.code, param=error.param)
    return error_envelope(body) if anthropic else body


def headers_of(error: ServingError) -> list[tuple[bytes, bytes]]:
    """Extra response headers of an error: when to try again, how to authenticate, and which
    encoding of a body is taken (RFC 9110, section 15.5.16)."""
    headers = []
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
    if isinstance(error, AccessError):
        headers.append((b"www-authenticate", b"Bearer"))
    if error.code == "unsupported_content_encoding":
        headers.append((b"accept-encoding", b"identity"))
    return headers


def from_engine(status: int, body: bytes) -> ServingError:
    """An engine's refusal in our terms.

    Messages of 4xx answers tell the caller what to change and pass through; those of 5xx may speak
    of the machine and do not.

    >>> error = from_engine(400, b'{"error": {"message": "too long", "param": "input_tokens"}}')
    >>> error.code, error.param
    ('context_length_exceeded', 'input_tokens')
    >>> from_engine(500, b"Traceback ...").message
    'The engine failed on this request'
    """
    if status == 503:
        return Overloaded(
            "The engine is at its limit", code="engine_overloaded", retryable=True, retry_after_s=1
        )
    message, param = _read_engine_error(body)
    if status < 400 or (status >= 500 and status != 501):
        is_alone = status == 500 and message == _GENERATION_FAILED
        code = "generation_failed" if is_alone else "engine_error"
        return EngineError("The engine failed on this request", code=code, retryable=True)
    if (known := _known_refusal(message, param)) is not None:
        return known
    code = _ENGINE_CODE_BY_STATUS.get(status, "invalid_request")
    if message in ("Not Found", "Method Not Allowed"):
        message = "The model does not support this API"
    too_long = "context length" in message or "max_model_len" in message
    if param in _PROMPT_PARAMS or (param in _COMPLETION_PARAMS and too_long):
        code = "context_length_exceeded"
    return RequestError(message, code=code, param=param)


def _known_refusal(message: str, param: str | None) -> RequestError | None:
    """A refusal that vLLM words for whoever started it, in words for whoever calls it.

    Source: `_make_not_found_error` in vllm/entrypoints/openai/responses/serving.py, and
        vllm/renderers/online_renderer.py, vLLM 0.32.
    """
    if param == "response_id":
        return RequestError(
            "Responses are not stored here, so `previous_response_id` finds none; send the whole "
            "conversation as `input`",
            code="previous_response_not_found",
            param="previous_response_id",
        )
    if "--tool-call-parser" in message:
        return RequestError(
            "This model calls no tools, as its setting `engine.tool_call_parser` is not set; leave "
            "out `tools`, or send `tool_choice: none`",
            code="tool_parser_missing",
            param="tools",
        )
    return None


def _read_engine_error(body: bytes) -> tuple[str, str | None]:
    """Message and field of vLLM's error body, or of FastAPI's; bytes of any kind are survived."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        parsed = None
    content = parsed if isinstance(parsed, dict) else {}
    error = content.get("error")
    fields = error if isinstance(error, dict) else {}
    message = fields.get("message") or content.get("detail")
    param = fields.get("param")
    text = message if isinstance(message, str) else "The engine refused the request"
    if named := _NAMED_PARAM.search(text):
        # vLLM appends the field and its value; its Anthropic dialect names it nowhere else.
        text = text[: named.start()]
    return text, param if isinstance(param, str) else named and named[1]
