"""What every subject of a bench looks like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from loadtest.accounting import Roles

RELAYING = frozenset({"proxy", "gateway", "haproxy"})
"""Roles of the processes that a streamed chunk passes through between engine and client."""


class UnavailableError(RuntimeError):
    """A subject cannot be installed or run here; the message is for whoever reads the report."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running subject.

    `direct` is one of its engines without the subject in between, for the subjects that bring
    their own; `processes` lists them by role at the moment it is called.
    """

    url: str
    model: str
    headers: Mapping[str, str] = field(default_factory=dict)
    processes: Callable[[], Roles] = dict
    direct: Server | None = None


@dataclass(frozen=True, slots=True)
class Peer:
    """A subject: `install` makes it runnable and returns its version, `start` runs it.

    `start` takes the URLs of the engines to route over, as many as there are, and the name of
    their model; subjects with engines of their own ignore both. `simulated` starts a subject that
    can simulate its own engines, with these settings of the model by path and `replicas` of it.

    Raises (all): UnavailableError.
    """

    name: str
    install: Callable[[], str]
    start: Callable[[Sequence[str], str], AbstractContextManager[Server]]
    simulated: Callable[..., AbstractContextManager[Server]] | None = None
