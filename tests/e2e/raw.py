"""Clients that speak HTTP/1.1 as badly as a test wants."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader

from e2e.harness import Platform


@dataclass(frozen=True)
class Answer:
    """One HTTP answer; `headers` in order, repeated ones included."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def header(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers}


class _KeepOpen(http.client.HTTPResponse):
    """Leaves the connection's buffer open for the next answer."""

    def _close_conn(self) -> None:
        self.fp = None


class Wire:
    """A connection on which arbitrary bytes can be sent."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = connection.makefile("rb")

    def makefile(self, _mode: str) -> BufferedReader:
        """What `http.client` reads from: one buffer for all answers of the connection."""
        return self._reader

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def close(self) -> None:
        self._reader.close()

    def answer(self, method: str = "POST") -> Answer | None:
        """The next answer; `None` if the connection ends without one."""
        response = _KeepOpen(self, method=method)  # type: ignore[arg-type]
        try:
            response.begin()
            return Answer(response.status, response.getheaders(), response.read())
        except (http.client.BadStatusLine, ConnectionError):
            return None

    def dribble(self, data: bytes, *, period_s: float) -> Answer | None:
        """Send byte after byte until there is an answer or the connection ends."""
        for byte in data:
            try:
                self._connection.sendall(bytes([byte]))
            except ConnectionError:
                break
            if self._readable(period_s):
                break
        return self.answer()

    def _readable(self, timeout_s: float) -> bool:
        before = self._connection.gettimeout()
        self._connection.settimeout(max(timeout_s, 0.001))
        try:
            self._connection.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        finally:
            self._connection.settimeout(before)
        return True


@contextmanager
def wire(address: tuple[str, int], *, timeout_s: float = 20) -> Iterator[Wire]:
    with socket.create_connection(address, timeout=timeout_s) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.closing(Wire(connection)) as opened:
            yield opened


def head(platform: Platform, start: str, *lines: str, authorized: bool = True) -> bytes:
    """A request head with the API key."""
    key = [f"authorization: Bearer {platform.key}"] if authorized else []
    return "\r\n".join([f"{start} HTTP/1.1", "host: galerne", *key, *lines, "", ""]).encode()


def ask(platform: Platform, data: bytes, *, method: str = "POST") -> Answer | None:
    """The answer to some bytes on a connection of their own."""
    with wire(platform.address) as connection:
        connection.send(data)
        return connection.answer(method)


def timed(platform: Platform, data: bytes, *, period_s: float) -> tuple[Answer | None, float]:
    """The answer to dribbled bytes, and the seconds until it came."""
    begun = time.monotonic()
    with wire(platform.address, timeout_s=30) as connection:
        answer = connection.dribble(data, period_s=period_s)
    return answer, time.monotonic() - begun
