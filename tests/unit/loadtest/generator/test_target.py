"""Endpoints as people name them."""

from __future__ import annotations

import pytest

from loadtest.generator.dialects import WIRES
from loadtest.generator.target import Composer, Target
from loadtest.generator.wire import Message, Wording
from loadtest.workload.request import Dialect
from serving.errors import ConfigError


def head(url: str, *, dialect: Dialect = "chat", key: str | None = None) -> list[bytes]:
    wording = Wording("m", True, True, 0.0)
    composer = Composer.make(Target.parse(url), WIRES[dialect], wording, key)
    request = composer.request([Message("user", b'"hi"')], 1)
    return request.partition(b"\r\n\r\n")[0].split(b"\r\n")


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("http://127.0.0.1:8000", b"POST /v1/chat/completions HTTP/1.1"),
        ("http://127.0.0.1:8000/v1/", b"POST /v1/chat/completions HTTP/1.1"),
        ("https://a.example/llm/v1", b"POST /llm/v1/chat/completions HTTP/1.1"),
        ("https://a.example/b%20c", b"POST /b%20c/v1/chat/completions HTTP/1.1"),
        ("https://a.example/b c", b"POST /b%20c/v1/chat/completions HTTP/1.1"),
        ("https://a.example/é", b"POST /%C3%A9/v1/chat/completions HTTP/1.1"),
    ],
)
def test_paths_stand_encoded_in_the_request(url: str, line: bytes) -> None:
    assert head(url)[0] == line


def test_the_key_stands_where_servers_of_the_api_look_for_it() -> None:
    url = "http://a.example"

    assert b"authorization: Bearer abc" in head(url, key="abc")
    assert b"x-api-key: abc" not in head(url, key="abc")
    assert {b"authorization: Bearer abc", b"x-api-key: abc"} <= {
        *head(url, dialect="messages", key="abc")
    }
    assert not any(b"key" in line or b"auth" in line for line in head(url, dialect="messages"))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://a.example", "no address"),
        ("a.example:8000", "no address"),
        ("http://", "no address"),
        ("http://a.example:99999", "no address"),
        ("http://[::1", "no address"),
        ("http://a b", "no address"),
        ("http://é.example", "no address"),
        ("http://a..example", "no address"),
        ("https://.example", "no address"),
        (f"http://{'a' * 64}.example", "no address"),
        ("http://me:hush@a.example", "no user or password"),
        ("http://me:hush@a.example:99999", "no user or password"),
        ("http://hush@", "no user or password"),
        ("http://a.example/?key=hush", "no query"),
        ("http://a.example/v1#hush", "no fragment"),
    ],
)
def test_what_is_no_address_is_refused_without_what_may_be_secret(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as refused:
        Target.parse(url)

    assert refused.value.param == "--url"
    assert "hush" not in str(refused.value)
