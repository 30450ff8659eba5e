"""What a request must show before it is served: a small enough head, its token, room.

Each guard returns nothing and raises the refusal. Keys of tenants are not checked here but by
`serving.tenancy`.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from serving.core.wire import INTERNAL_TOKEN
from serving.errors import AccessError, Overloaded, RequestError
from serving.gateway.exchange import Exchange
from serving.tenancy.access import bearer_token

_RESTART_S = 30
"""When to come back to a platform that is being stopped: a restart takes about that long."""


def check_head_size(exchange: Exchange, *, limit_bytes: int) -> None:
    """The headers are within the limit.

    Raises:
        RequestError: they are not.
    """
    if sum(len(name) + len(value) + 4 for name, value in exchange.headers) > limit_bytes:
        raise RequestError(
            f"The request head is larger than the limit of {limit_bytes} bytes",
            code="headers_too_large",
        )


def check_internal_token(exchange: Exchange, *, token: str) -> None:
    """The caller is a process of the platform.

    Raises:
        AccessError: it is not.
    """
    presented = exchange.header(INTERNAL_TOKEN) or b""
    if not hmac.compare_digest(presented, token.encode()):
        raise AccessError("This path is not for clients", code="internal_only")


def check_metrics_token(exchange: Exchange, *, token: str) -> None:
    """The caller may read metrics.

    Raises:
        AccessError: it may not.
    """
    presented = bearer_token(exchange.headers) or ""
    if not hmac.compare_digest(presented.encode(), token.encode()):
        raise AccessError(
            "This path takes the metrics token; see `galerne metrics config`",
            code="metrics_token_required",
        )


def check_room(*, is_draining: bool, has_room: Callable[[], bool]) -> None:
    """The gateway takes another request to a model.

    Raises:
        Overloaded: it is being stopped, or full.
    """
    if is_draining:
        raise Overloaded(
            "The platform is stopping",
            code="platform_stopping",
            retryable=True,
            retry_after_s=_RESTART_S,
        )
    if not has_room():
        raise Overloaded(
            "The gateway is at its limit",
            code="gateway_overloaded",
            retryable=True,
            retry_after_s=1,
        )


def check_media_type(exchange: Exchange) -> None:
    """The body is declared as plain JSON, or not at all.

    Raises:
        RequestError: it is declared as something else, or as compressed.
    """
    encoding = (exchange.header(b"content-encoding") or b"identity").strip().lower()
    if encoding != b"identity":
        raise RequestError(
            "The body must be sent uncompressed, without Content-Encoding",
            code="unsupported_content_encoding",
        )
    media_type = (exchange.header(b"content-type") or b"application/json").split(b";")[0].strip()
    if media_type.lower() != b"application/json":
        raise RequestError(
            "The body must be sent as Content-Type: application/json",
            code="unsupported_media_type",
        )
