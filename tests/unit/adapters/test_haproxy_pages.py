"""What HAProxy answers where no gateway does."""

from __future__ import annotations

import json

from serving.adapters.haproxy_pages import error_pages
from serving.gateway.error_table import type_of


def test_error_pages_are_whole_openai_errors() -> None:
    for status, page in error_pages().items():
        head, _, body = page.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:])
        sent = 503 if status == 502 else status
        assert lines[0].startswith(f"HTTP/1.1 {sent} ")
        assert int(headers["Content-Length"]) == len(body)
        assert headers["Content-Type"] == "application/json"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Connection"] == "close"
        error = json.loads(body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["param"] is None
        assert error["type"] == type_of(400 if sent in (422, 501) else sent)
        assert ("Retry-After" in headers) == (sent == 503)
