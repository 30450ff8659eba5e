"""HAProxy alone: the least that any proxy in front of an engine can cost."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from loadtest.peers.base import Peer, Server, UnavailableError
from loadtest.peers.single import Command, serve
from loadtest.processes import free_port
from serving.adapters.haproxy import find_binary
from serving.errors import ConfigError

_MAX_CONNECTIONS = 8000
"""HAProxy refuses to start unless it may open twice as many files, and some more."""

_MAX_THREADS = 4
"""As many as Galerne gives its own HAProxy."""

# Without http-no-delay HAProxy holds the first chunk of a stream back for some 40 ms.
_CONFIG = """\
global
    maxconn {connections}
    nbthread {threads}
defaults
    mode http
    option http-no-delay
    timeout connect 5s
    timeout client 1h
    timeout server 1h
frontend clients
    bind 127.0.0.1:{port}
    default_backend engines
backend engines
    balance roundrobin
    http-reuse always
{servers}
"""


def install() -> str:
    """The version of the binary that Ray Serve brings, else of the one on PATH."""
    try:
        words = [find_binary(), "-v"]
    except ConfigError as error:
        raise UnavailableError(str(error)) from error
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\S+)", told)
    return found.group(1) if found else "unknown"


@contextmanager
def start(engines: Sequence[str], model: str) -> Iterator[Server]:
    """One HAProxy process."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="galerne-bench-") as folder:
        config = Path(folder, "haproxy.cfg")
        config.write_text(configuration(engines, port=port))
        words: list[str | Path] = [find_binary(), "-db", "-f", config]
        with serve("haproxy", Command(words, f"http://127.0.0.1:{port}"), model) as server:
            yield server


def configuration(engines: Sequence[str], *, port: int) -> str:
    """A minimal streaming configuration."""
    servers = (f"    server e{i} {urlsplit(url).netloc}" for i, url in enumerate(engines))
    threads = min(_MAX_THREADS, os.cpu_count() or 1)
    return _CONFIG.format(
        connections=_MAX_CONNECTIONS, threads=threads, port=port, servers="\n".join(servers)
    )


PEER = Peer("haproxy", install, start)
