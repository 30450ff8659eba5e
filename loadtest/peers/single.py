"""Subjects that are one command: a server process, perhaps with children of its own."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from loadtest.accounting import family
from loadtest.peers.base import Server, UnavailableError
from loadtest.processes import StartError, running, wait_until_up


@dataclass(frozen=True, slots=True)
class Command:
    """How to run it, and which URL answers 200 once it can serve."""

    words: Sequence[str | Path]
    url: str
    ready_path: str = "/health"
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM
    start_timeout_s: float = 60.0


@contextmanager
def serve(name: str, command: Command, model: str, *, role: str = "proxy") -> Iterator[Server]:
    """The running server; `role` is what its processes are counted as.

    Raises:
        UnavailableError: it does not come up.
    """
    environment, how = command.environment, command.stop_signal
    with running(command.words, environment=environment, stop_signal=how) as child:
        try:
            wait_until_up(
                child, command.url + command.ready_path, timeout_s=command.start_timeout_s
            )
        except StartError as error:
            raise UnavailableError(f"{name}: {error}") from error
        yield Server(command.url, model, processes=lambda: {role: family(child.pid)})
