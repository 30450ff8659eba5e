"""How every command speaks: rich on stderr for people, JSON on stdout for programs."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.markup import escape

from serving.errors import ClusterError, ConfigError, ServingError, TimedOut

# Without emoji: in `uniform:100:1000` a 100 would become a picture.
err = Console(stderr=True, highlight=False, emoji=False)
out = Console(highlight=False, emoji=False)

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_TIMED_OUT = 3

_STEP_LINE = re.compile(r"(?!error |hint  )(.+) \d+ s")
"""A line of `progress` where there is no terminal."""


def print_json(value: Any) -> None:
    """Write one JSON document to stdout, unstyled, so that pipes can parse it. JSON knows no
    infinity: what is not finite is null."""
    print(json.dumps(_finite(value), indent=2, sort_keys=False, default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def report(error: ServingError) -> int:
    """Print an error as one line plus a hint; return the exit code it deserves."""
    field = f" [dim]({error.param})[/dim]" if error.param else ""
    err.print(f"[bold red]error[/bold red] {escape(error.message)}{field}", soft_wrap=True)
    if isinstance(error, ConfigError | ClusterError) and error.hint:
        err.print(f"[bold]hint[/bold]  {escape(error.hint)}", soft_wrap=True)
    if isinstance(error, TimedOut):
        return EXIT_TIMED_OUT
    return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILURE


def say(line: str) -> None:
    """Print one line of rich markup on stderr.

    A detached platform says it to a log file, and a full disk must not be what stops it.
    """
    with suppress(OSError):
        err.print(line, soft_wrap=True)


@contextmanager
def progress(step: str) -> Iterator[Any]:
    """A spinner with step and elapsed time; plain lines where there is no terminal."""
    begun = time.monotonic()

    def text(current: str) -> str:
        return f"{escape(current)} [dim]{time.monotonic() - begun:.0f} s[/dim]"

    if err.is_terminal:
        with err.status(text(step)) as spinner:
            yield lambda current: spinner.update(text(current))
        return
    last = step
    say(text(step))

    def tell(current: str) -> None:
        nonlocal last
        if current != last:
            last = current
            say(text(current))

    yield tell


def read_steps(log: str) -> tuple[str, str]:
    """The last step of `progress` in a log, or nothing, and what has been said since."""
    step, said = "", list[str]()
    for line in log.splitlines():
        if found := _STEP_LINE.fullmatch(line):
            step, said = found[1], []
        else:
            said.append(line)
    return step, "\n".join(said)
