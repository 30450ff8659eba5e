"""A real Redis server, from Debian's package."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from debian_packages import unpacked
from e2e.harness import wait_until

from loadtest.processes import running

PORT = 6379
_LIBRARIES = ("libatomic1", "libjemalloc2", "liblzf1")


def find_redis() -> tuple[Path, Mapping[str, str]]:
    """The server's program and the environment it needs.

    Skips the test, with the reason, where it cannot be had.
    """
    if installed := shutil.which("redis-server"):
        return Path(installed), {}
    program = unpacked("redis-server", "redis-server", "redis-tools", *_LIBRARIES)
    (library,) = program.parents[1].glob("lib/*/libjemalloc.so.2")
    return program, {"LD_LIBRARY_PATH": str(library.parent)}


@contextmanager
def running_redis(
    address: str, password: str, *, inside: Callable[..., Sequence[str]]
) -> Iterator[None]:
    """A server at `address` that keeps nothing on disk.

    Args:
        inside: makes of a command the one that runs it where the address is.
    """
    program, environment = find_redis()
    options = ["--port", str(PORT), "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory(prefix="galerne-redis-") as folder:
        command = inside(program, "--dir", folder, "--requirepass", password, *options)
        with running(command, environment=environment):
            wait_until(lambda: _answers(address, password), timeout_s=20, what="Redis")
            yield


def _answers(address: str, password: str) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, PORT), 1) as connection:
        connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
        said = b""
        while len(said) < len(b"+OK\r\n+PONG\r\n") and (more := connection.recv(100)):
            said += more
        return said == b"+OK\r\n+PONG\r\n"
    return False
