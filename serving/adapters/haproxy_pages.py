"""HAProxy's own error answers, in the shape of OpenAI's API: for requests no gateway sees.

Imported by the script that runs at every reload of HAProxy, so it imports the standard library
only. Start with `error_pages`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_CLIENT_ERROR = "invalid_request_error"
_UNAVAILABLE = "overloaded_error"
_TIMEOUT = "timeout_error"


class _Page(NamedTuple):
    """One error answer of HAProxy itself, in the shape of OpenAI's API.

    Types and codes are those of `serving.gateway.error_table`, which this file cannot import.
    `sent_status` is what clients see instead of HAProxy's own status.
    """

    reason: str
    type: str
    code: str
    message: str
    retry_after_s: int | None = None
    allow: str | None = None
    sent_status: int | None = None


# Statuses HAProxy 2.8 itself sends; it refuses an `errorfile` for any status outside its own list.
# For errors it finds before it has a whole request head (400, 408, 501) HAProxy before 3.3 sends a
# short HTML text of its own, with the right status and without a product name, whatever is
# configured: https://github.com/haproxy/haproxy/issues/3032. A later HAProxy obeys the pages here.
_PAGES: Mapping[int, _Page] = {
    400: _Page("Bad Request", _CLIENT_ERROR, "malformed_request", "The request is not valid HTTP."),
    404: _Page("Not Found", "not_found_error", "unknown_path", "There is nothing at this path."),
    405: _Page(
        "Method Not Allowed",
        _CLIENT_ERROR,
        "method_not_allowed",
        "Method not allowed.",
        allow="GET, HEAD, POST",
    ),
    408: _Page("Request Timeout", _TIMEOUT, "request_timeout", "The request head came too slowly."),
    413: _Page(
        "Payload Too Large", "request_too_large", "body_too_large", "The body is too large."
    ),
    422: _Page(
        "Unprocessable Content", _CLIENT_ERROR, "malformed_request", "The request is ambiguous."
    ),
    500: _Page("Internal Server Error", "api_error", "internal_error", "Internal error."),
    501: _Page(
        "Not Implemented", _CLIENT_ERROR, "not_implemented", "This HTTP feature is not supported."
    ),
    # A gateway that has died, or has no file descriptor to take a connection with: nothing is wrong
    # with the request, and another gateway or moment may serve it.
    502: _Page(
        "Service Unavailable",
        _UNAVAILABLE,
        "bad_gateway",
        "The gateway broke off; retry.",
        retry_after_s=1,
        sent_status=503,
    ),
    503: _Page(
        "Service Unavailable",
        _UNAVAILABLE,
        "gateway_unavailable",
        "No gateway is available; retry shortly.",
        retry_after_s=1,
    ),
    504: _Page(
        "Gateway Timeout", _TIMEOUT, "gateway_timeout", "The gateway did not answer in time."
    ),
}


def error_pages() -> dict[int, bytes]:
    """HAProxy's own answers by status: whole HTTP/1.1 responses, head included."""
    return {status: _render(status, page) for status, page in _PAGES.items()}


def _render(status: int, page: _Page) -> bytes:
    error = {"message": page.message, "type": page.type, "param": None, "code": page.code}
    body = json.dumps({"error": error}).encode()
    head = [
        f"HTTP/1.1 {page.sent_status or status} {page.reason}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if page.retry_after_s is not None:
        head.append(f"Retry-After: {page.retry_after_s}")
    if page.allow is not None:
        head.append(f"Allow: {page.allow}")
    return "\r\n".join([*head, "", ""]).encode() + body


def errorfile_lines(error_dir: Path) -> str:
    """What names the pages in a section of HAProxy's configuration."""
    return "".join(f"    errorfile {s} {page_path(error_dir, s)}\n" for s in _PAGES)


def page_path(error_dir: Path, status: int) -> Path:
    """Where HAProxy finds the page for `status`."""
    return error_dir / f"galerne-{status}.http"
