"""How `galerne model` shows that it is at work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from serving.adapters import model_cache
from serving.cli.console import err, say

_QUIET_S = 2.0
_REPEAT_S = 10.0


@contextmanager
def model_progress() -> Iterator[model_cache.Progress]:
    """A progress callback drawn on stderr; plain lines where that is no terminal."""
    if not err.is_terminal:
        yield StepLines(lambda line: say(escape(line)), time.monotonic)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def show(step: str, done: float | None, total: float | None) -> None:
            bar.update(task, description=escape(step), completed=done or 0, total=total)

        yield show


class StepLines:
    """A progress callback that writes few lines: a step without known bytes once, at its begin;
    one with bytes once it has gone on for two seconds, and then every ten.

    >>> lines, times = [], iter([0.0, 0.1, 3.0, 4.0, 15.0])
    >>> tell = StepLines(lines.append, lambda: next(times))
    >>> for done in (1e6, 2e6, 3e6, 4e6):
    ...     tell("fetching a.bin", done, 9e6)
    >>> lines
    ['model: fetching a.bin (2 of 9 MB)', 'model: fetching a.bin (4 of 9 MB)']
    """

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float]) -> None:
        self._write = write
        self._clock = clock
        self._step = ""
        self._due = clock() + _QUIET_S

    def __call__(self, step: str, done: float | None, total: float | None) -> None:
        """As `model_cache.Progress`."""
        now = self._clock()
        if done is None or total is None:
            if step != self._step:
                self._write(f"model: {step}")
        elif now >= self._due:
            self._write(f"model: {step} ({done / 1e6:.0f} of {total / 1e6:.0f} MB)")
            self._due = now + _REPEAT_S
        self._step = step
