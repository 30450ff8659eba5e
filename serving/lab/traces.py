"""Traces of requests as files: which came when, and how long they were.

`galerne`, JSON lines; times in seconds, and `blocks` may be absent:

    {"at_s": 0.25, "prompt_tokens": 600, "output_tokens": 90, "blocks": [4, 7]}

`mooncake`, JSON lines; times in ms:

    {"timestamp": 3000, "input_length": 600, "output_length": 90, "hash_ids": [4, 7]}

`azure`, CSV:

    TIMESTAMP,ContextTokens,GeneratedTokens
    2023-11-16 18:15:46.6805900,374,44

Whatever the format:

- Times count from the first request. They may leave gaps, and may be equal. One that is before that
  of the line above is refused: a shuffled file has lost its bursts. So is one that is more than a
  month after the first: its unit is another one than the format's, or two clocks are mixed.
- A request without a prompt or an answer, of length 0, is left out and counted in `num_dropped`.
- Negative lengths, numbers that are not finite, missing fields, another number of blocks than the
  prompt has, lines that cannot be read, half a last line, and files without requests are refused.
  Only a number that was cut short at the very end of a CSV file cannot be told from a whole one.
- Empty lines are skipped.

Reading a trace imports no compiler, so that whoever only sends requests can do it, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

from serving.errors import ConfigError
from serving.lab.trace_formats import EXAMPLES, FORMATS, LineError, Row

TraceFormat = Literal["mooncake", "azure", "galerne"]

BLOCK_TOKENS = 512
"""Tokens of a prompt block that has a name. Source: Mooncake's traces."""

_LONGEST_DAYS = 31
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request, `at_s` after the first.

    `blocks` names its prompt's blocks of `BLOCK_TOKENS` tokens, of which the last may be shorter;
    `None` where the trace does not name them. Prompts with equal leading names have equal leading
    tokens.
    """

    at_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order of arrival, and how many were left out for a length of 0."""

    requests: tuple[TraceRequest, ...]
    num_dropped: int = 0


def read_trace(path: Path, format_: str, *, speed: float = 1.0, limit: int | None = None) -> Trace:
    """The requests of a file.

    Args:
        format_: a `TraceFormat`.
        speed: how many times as fast as in the file the time runs, above 0.
        limit: how many requests to take, at least 1; the lines after them are not looked at.

    Raises:
        ConfigError: the file cannot be read, or a line is not as its format says; names the line.
    """
    if format_ not in get_args(TraceFormat):
        raise ConfigError(
            f"there is no trace format {format_!r}",
            code="trace_unreadable",
            param="--format",
            hint=f"--format is one of {', '.join(get_args(TraceFormat))}",
        )
    try:
        with path.open("rb") as lines:
            rows = _Rows(FORMATS[format_](lines))
            taken = list(islice(rows, limit))
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}", code="trace_unreadable", param="--trace"
        ) from error
    except LineError as error:
        raise ConfigError(
            f"{path} is no trace of the format {format_}: line {error.line}: {error}",
            code="trace_invalid",
            param="--trace",
            hint=error.hint or f"a line of --format {format_} is such as {EXAMPLES[format_]}",
        ) from error
    if not taken:
        left_out = f", only {rows.num_dropped} of length 0" if rows.num_dropped else ""
        raise ConfigError(f"{path} has no requests{left_out}", code="trace_empty", param="--trace")
    return Trace(_timed(taken, speed), rows.num_dropped)


class _Rows:
    """The rows that can be sent, checked; counts those that are left out."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows = rows
        self.num_dropped = 0

    def __iter__(self) -> Iterator[Row]:
        first_s, last_s = None, 0.0
        for row in self._rows:
            first_s = row.at_s if first_s is None else first_s
            _check(row, last_s)
            _check_span(row, first_s)
            last_s = row.at_s
            if row.prompt_tokens and row.output_tokens:
                yield row
            else:
                self.num_dropped += 1


def _check(row: Row, last_s: float) -> None:
    if row.at_s < last_s:
        raise LineError(
            row.line,
            f"it is {last_s - row.at_s:g} s before the line above",
            hint="sort the file by time",
        )
    needed = -(-row.prompt_tokens // BLOCK_TOKENS)
    if row.blocks is not None and len(row.blocks) != needed:
        raise LineError(
            row.line,
            f"it names {len(row.blocks)} blocks, and a prompt of {row.prompt_tokens} tokens has "
            f"{needed} of {BLOCK_TOKENS}",
        )


def _check_span(row: Row, first_s: float) -> None:
    days = (row.at_s - first_s) / _DAY_S
    if days > _LONGEST_DAYS:
        raise LineError(
            row.line,
            f"it is {days:.3g} days after the first request; traces last {_LONGEST_DAYS} at most",
            hint="give all times in the format's unit (galerne: s, mooncake: ms), by one clock",
        )


def _timed(rows: list[Row], speed: float) -> tuple[TraceRequest, ...]:
    first_s = rows[0].at_s
    return tuple(
        TraceRequest((row.at_s - first_s) / speed, row.prompt_tokens, row.output_tokens, row.blocks)
        for row in rows
    )
