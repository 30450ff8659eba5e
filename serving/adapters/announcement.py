"""What this process says of itself: asked for by Ray, which can call into any replica."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Announcement:
    """`metrics_url` is where it shows its metrics, `version` names what it was built from.

    `problems` gives what an operator must know now, a line each. `drain` makes it refuse new
    requests from now on and returns how many run.
    """

    metrics_url: str
    version: str
    problems: Callable[[], list[str]]
    drain: Callable[[], int]


_announced: list[Announcement] = []
# Process-wide, because the question comes through Ray's actor rather than through our objects.


def announce(announcement: Announcement) -> None:
    """Answer with this from now on: the process is ready."""
    _announced[:] = [announcement]


def announced() -> Announcement | None:
    """What this process has announced, `None` before it is ready."""
    return _announced[0] if _announced else None
