"""Why a request gets no answer, in the words of vLLM's error bodies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class RequestRefused(Exception):
    """vLLM would answer this request with an error.

    pydantic lets it pass through validators, as it does vLLM's own exception, since it is not a
    `ValueError`.

    Source: `VLLMValidationError` in vllm/exceptions.py and `create_error_response` in
        vllm/entrypoints/serve/exception_handling/error_response.py, vLLM 0.32.

    >>> RequestRefused("n must be at least 1, got 0.").body
    {'error': {'message': 'n must be at least 1, got 0.', 'type': 'BadRequestError', \
'param': None, 'code': 400}}
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        status: int = 400,
        error_type: str = "BadRequestError",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.status = status
        self.error_type = error_type

    @property
    def body(self) -> Mapping[str, Any]:
        """The error as OpenAI's dialect has it."""
        return {
            "error": {
                "message": self.message,
                "type": self.error_type,
                "param": self.param,
                "code": self.status,
            }
        }

    @property
    def anthropic_body(self) -> Mapping[str, Any]:
        """The error as vLLM's `/v1/messages` has it."""
        return {"type": "error", "error": {"type": self.error_type, "message": self.message}}


def invalid(message: str, param: str, value: object = None) -> RequestRefused:
    """A refusal of one field, which vLLM names again at the end of the message.

    >>> invalid("max_tokens must be at least 1, got 0.", "max_tokens", 0).message
    'max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)'
    """
    suffix = "" if value is None else f", value={value}"
    return RequestRefused(f"{message} (parameter={param}{suffix})", param=param)


def engine_dead() -> RequestRefused:
    """Source: `EngineDeadError` in vllm/v1/engine/exceptions.py, vLLM 0.32."""
    return RequestRefused(
        "EngineCore encountered an issue. See stack trace (above) for the root cause.",
        status=500,
        error_type="InternalServerError",
    )
