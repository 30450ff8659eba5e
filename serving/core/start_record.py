"""How long a replica took to start, and how long it has been there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum


class StartPhase(StrEnum):
    """What a replica's start is made of, in this order."""

    SCHEDULE = "schedule"
    """From the order to the constructor: a place for it, and a process."""
    WEIGHTS = "weights"
    """Finding, downloading and verifying them."""
    LOAD = "load"
    """Starting the engine."""
    WARM_UP = "warm_up"
    """From there until the replica takes requests."""


class StartRecord:
    """The phases of one replica's start; made where the start begins in the replica's process.

    Args:
        clock: monotonic seconds.
        wall_clock: Unix time.

    >>> seconds = iter([0.0, 2.0, 32.0, 60.0])
    >>> start = StartRecord(clock=seconds.__next__, wall_clock=lambda: 1_000.0)
    >>> with start.phase(StartPhase.LOAD):
    ...     pass
    >>> start.ordered(at=995.5)
    >>> start.age_s()
    64.5
    >>> {phase.value: spent for phase, spent in start.seconds.items()}
    {'load': 30.0, 'schedule': 4.5}
    """

    def __init__(self, *, clock: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        self._clock = clock
        self._begun = clock()
        self._begun_at = wall_clock()
        self.seconds: dict[StartPhase, float] = {}
        """Of the phases that are over."""

    @contextmanager
    def phase(self, phase: StartPhase) -> Iterator[None]:
        """The phase goes on as long as the block; one that fails is none."""
        begun = self._clock()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + self._clock() - begun

    def ordered(self, at: float) -> None:
        """The replica was ordered at this Unix time of another machine, whose clock may be ahead:
        the wait is never below 0."""
        self.seconds[StartPhase.SCHEDULE] = max(self._begun_at - at, 0.0)

    def age_s(self) -> float:
        """Seconds since the replica was ordered, or since its start began if that is unknown."""
        return self._clock() - self._begun + self.seconds.get(StartPhase.SCHEDULE, 0.0)
