"""Where requests go and how they are written."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from loadtest.generator.wire import Message, Wire, Wording
from serving import __version__
from serving.errors import ConfigError

_NO_PART_OF_AN_ADDRESS = {
    "@": "user or password; an API key goes into GALERNE_API_KEY",
    "?": "query",
    "#": "fragment",
}
_PATH_MARKS = "/%:!$&'()*+,;=~"
"""What stands in a path as it is. Source: RFC 3986, section 3.3; `%`, for it may be encoded."""


def _bad_url(message: str) -> ConfigError:
    return ConfigError(
        message,
        code="bad_url",
        param="--url",
        hint="write it as http://HOST:PORT or https://HOST",
    )


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint. `url` has neither a trailing slash nor the `/v1` that SDKs want in theirs;
    `ca_file` holds the authorities to trust instead of the system's."""

    url: str
    ca_file: Path | None = None

    @classmethod
    def parse(cls, url: str, ca_file: Path | None = None) -> Target:
        """The endpoint that somebody names, with or without `/v1`.

        Raises:
            ConfigError: it is no address of an HTTP server, or says more than an address. What
                may hold a secret is not repeated.

        >>> Target.parse("https://llm.example.org/v1/").url
        'https://llm.example.org'
        """
        for mark, name in _NO_PART_OF_AN_ADDRESS.items():
            if mark in url:
                raise _bad_url(f"the endpoint's address must have no {name}")
        try:
            parts = urlsplit(url)
            host, _ = parts.netloc, parts.port
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
            (parts.hostname or "").encode("idna")  # as whoever looks the name up will do
        except ValueError:
            host, is_address = "", False
        if not is_address or not all("!" <= character <= "~" for character in host):
            raise _bad_url(f"{url!r} is no address of an endpoint")
        path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
        return cls(urlunsplit((parts.scheme, host, quote(path, _PATH_MARKS), "", "")), ca_file)

    @property
    def tls(self) -> ssl.SSLContext | None:
        """What to trust, if the endpoint speaks TLS.

        Raises:
            ConfigError: `ca_file` cannot be read.
        """
        if not self.url.startswith("https:"):
            return None
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"cannot read certificates from {self.ca_file}", code="bad_ca", param="--ca-file"
            ) from error


@dataclass(frozen=True, slots=True)
class Composer:
    """Writes the requests of one part of a workload as bytes."""

    wire: Wire
    wording: Wording
    _head: bytes
    _body_head: bytes

    @classmethod
    def make(cls, target: Target, wire: Wire, wording: Wording, key: str | None) -> Composer:
        """One that writes requests to `target`, with this API key."""
        parts = urlsplit(target.url)
        headers: Mapping[str, str] = {
            "host": parts.netloc,
            "user-agent": f"galerne-load/{__version__}",
            "content-type": "application/json",
            "accept": "text/event-stream" if wording.is_stream else "application/json",
            **wire.identity(key),
        }
        lines = [
            f"POST {parts.path}{wire.path} HTTP/1.1",
            *(f"{k}: {v}" for k, v in headers.items()),
        ]
        head = "\r\n".join(lines).encode("latin-1")
        return cls(wire, wording, head, wire.head(wording))

    def request(self, messages: Sequence[Message], max_tokens: int) -> bytes:
        """A whole HTTP request."""
        body = self.wire.body(self._body_head, messages, max_tokens)
        return b"%b\r\ncontent-length: %d\r\n\r\n%b" % (self._head, len(body), body)
