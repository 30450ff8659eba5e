"""A run while it goes on, in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loadtest.report.words import DASH, number, span, whole

_LINE_EVERY_S = 5.0
_LATE_MS = 5.0


@dataclass(frozen=True, slots=True)
class Progress:
    """A run so far. Rates and times are of its last seconds, `completed` and `failed` of all of it.

    `total_s` is how long requests will have been due, `None` where that is not known; `None`
    elsewhere is not measured.
    """

    elapsed_s: float
    total_s: float | None
    offered_rps: float
    in_flight: int
    completed: int
    failed: int
    goodput_rps: float
    ttft_p50_ms: float | None
    ttft_p99_ms: float | None
    send_lag_ms: float | None
    replicas: int | None = None


@contextmanager
def showing(console: Console) -> Iterator[Callable[[Progress], None]]:
    """A function to be called with every progress, which keeps a panel up to date; without a
    terminal, it writes a line every five seconds of the run."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4) as live:
            yield lambda progress: live.update(panel(progress))
        return
    next_s = 0.0

    def tell(progress: Progress) -> None:
        nonlocal next_s
        if progress.elapsed_s >= next_s:
            next_s = progress.elapsed_s + _LINE_EVERY_S
            console.print(line(progress), soft_wrap=True, markup=False, highlight=False)

    yield tell


def panel(progress: Progress) -> RenderableType:
    """Figures under their names, and how much of the time is over."""
    table = Table.grid(padding=(0, 3))
    for figures in (_counts(progress), _times(progress)):
        table.add_row(*(Text(name, "dim") for name, _, _ in figures))
        table.add_row(*(Text(value, style or "bold") for _, value, style in figures))
    return Panel(Group(table, Text(), _time_left(progress)), title="load test", expand=False)


def line(progress: Progress) -> str:
    """The same in one line of plain text."""
    figures = (*_counts(progress), *_times(progress))
    said = ", ".join(f"{name} {value}" for name, value, _ in figures)
    return f"{_clock(progress)}: {said}"


_Figure = tuple[str, str, str]
"""Name, value, style."""


def _counts(progress: Progress) -> tuple[_Figure, ...]:
    return (
        ("offered", f"{number(progress.offered_rps)}/s", ""),
        ("goodput", f"{number(progress.goodput_rps)}/s", "green"),
        ("in flight", whole(progress.in_flight), ""),
        ("completed", whole(progress.completed), ""),
        ("failed", whole(progress.failed), "bold red" if progress.failed else ""),
    )


def _times(progress: Progress) -> tuple[_Figure, ...]:
    late = progress.send_lag_ms is not None and progress.send_lag_ms > _LATE_MS
    found: tuple[_Figure, ...] = (
        ("TTFT p50", _span(progress.ttft_p50_ms), ""),
        ("TTFT p99", _span(progress.ttft_p99_ms), ""),
        ("send lag", _span(progress.send_lag_ms), "bold yellow" if late else ""),
    )
    if progress.replicas is None:
        return found
    return (*found, ("replicas", whole(progress.replicas), ""))


def _span(ms: float | None) -> str:
    return DASH if ms is None else span(ms)


def _time_left(progress: Progress) -> RenderableType:
    if progress.total_s is None:
        return Text(_clock(progress), "dim")
    left_s = progress.total_s - progress.elapsed_s
    said = f"{span(1000 * left_s)} left" if left_s > 0 else "waiting for the last answers"
    row = Table.grid(padding=(0, 2))
    done = min(progress.elapsed_s, progress.total_s)
    bar = ProgressBar(
        total=progress.total_s, completed=done, width=36, complete_style="green",
        finished_style="green",
    )  # fmt: skip
    row.add_row(bar, Text(said))
    return row


def _clock(progress: Progress) -> str:
    of = "" if progress.total_s is None else f" of {progress.total_s:.0f}"
    return f"{progress.elapsed_s:.0f}{of} s"
