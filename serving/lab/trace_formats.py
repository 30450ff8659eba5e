"""The lines of each format of traces, as rows. What a trace as a whole must be: `traces.py`."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import groupby, pairwise
from typing import Annotated, Any, NamedTuple

import msgspec

_BATCH_S = 3.0
_MAX_TOKENS = 10_000_000
"""More than any model reads; a figure beyond it is no length."""
_AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_AZURE_TIME = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)?", re.ASCII)

_COUNT = re.compile(r"\s*\d{1,12}\s*", re.ASCII)


class Row(NamedTuple):
    """A request. `at_s` counts from a moment of the file's own; `line` from 1. `blocks` is `None`
    where they have no names."""

    line: int
    at_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] | None = None


class LineError(Exception):
    """A line is not as its format, or what every trace must be. `line` counts from 1."""

    def __init__(self, line: int, problem: str, *, hint: str = "") -> None:
        super().__init__(problem)
        self.line = line
        self.hint = hint


_Time = Annotated[float, msgspec.Meta(ge=0)]
_Tokens = Annotated[int, msgspec.Meta(ge=0, le=_MAX_TOKENS)]


class _GalerneLine(msgspec.Struct, forbid_unknown_fields=True):
    at_s: _Time
    prompt_tokens: _Tokens
    output_tokens: _Tokens
    blocks: tuple[int, ...] | None = None


class _MooncakeLine(msgspec.Struct):
    timestamp: _Time
    input_length: _Tokens
    output_length: _Tokens
    hash_ids: tuple[int, ...]


def _galerne(lines: Iterable[bytes]) -> Iterator[Row]:
    for number, row in _json(lines, _GalerneLine):
        yield Row(number, row.at_s, row.prompt_tokens, row.output_tokens, row.blocks)


def _mooncake(lines: Iterable[bytes]) -> Iterator[Row]:
    """Those have one timestamp, in ms, for every three seconds; what came in between is spread
    evenly over them, or until the next timestamp if that is sooner.

    Source: kvcache-ai/Mooncake, FAST'25 release.
    """
    rows = (
        Row(number, row.timestamp / 1000, row.input_length, row.output_length, row.hash_ids)
        for number, row in _json(lines, _MooncakeLine)
    )
    batches = ((at_s, list(batch)) for at_s, batch in groupby(rows, key=lambda row: row.at_s))
    for (at_s, batch), (next_s, _) in pairwise(_and_then(batches, (math.inf, []))):
        gap_s = min(max(next_s - at_s, 0.0), _BATCH_S) / len(batch)
        for place, row in enumerate(batch):
            yield row._replace(at_s=at_s + place * gap_s)


def _azure(lines: Iterable[bytes]) -> Iterator[Row]:
    """Azure's LLM inference traces; their times have seven digits of a second.

    Source: Azure/AzurePublicDataset, 2023; Patel et al., "Splitwise", ISCA 2024.
    """
    begun: datetime | None = None
    for number, (time, prompt_tokens, output_tokens) in _csv(lines, _AZURE_COLUMNS):
        second, fraction_s = _azure_time(number, time)
        begun = begun or second
        # Seconds since 1970 as a float would lose the seventh digit.
        at_s = (second - begun).total_seconds() + fraction_s
        yield Row(number, at_s, _count(number, prompt_tokens), _count(number, output_tokens))


FORMATS: Mapping[str, Callable[[Iterable[bytes]], Iterator[Row]]] = {
    "mooncake": _mooncake,
    "azure": _azure,
    "galerne": _galerne,
}
EXAMPLES: Mapping[str, str] = {
    "mooncake": '{"timestamp": 3000, "input_length": 600, "output_length": 90, "hash_ids": [4, 7]}',
    "azure": "2023-11-16 18:15:46.6805900,374,44",
    "galerne": '{"at_s": 3.0, "prompt_tokens": 600, "output_tokens": 90, "blocks": [4, 7]}',
}
"""A line of each."""


def _json(lines: Iterable[bytes], kind: type[Any]) -> Iterator[tuple[int, Any]]:
    """Numbers and content of the lines that are not empty."""
    decoder = msgspec.json.Decoder(kind)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield number, decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise LineError(number, str(error)) from error


def _csv(lines: Iterable[bytes], columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """Numbers of the lines below the header, and the cells of these columns."""
    reader = csv.reader(_decoded(lines), strict=True)
    try:
        header = next((row for row in reader if row), None)
        if header is None:
            return
        for missing in (column for column in columns if column not in header):
            raise LineError(reader.line_num, f"the header has no column {missing}")
        places = [header.index(column) for column in columns]
        for row in reader:
            if row and len(row) != len(header):
                raise LineError(reader.line_num, f"{len(row)} fields, not {len(header)}")
            if row:
                yield reader.line_num, [row[place] for place in places]
    except csv.Error as error:
        raise LineError(reader.line_num, str(error)) from error


def _decoded(lines: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise LineError(number, "it is not UTF-8 text") from error


def _azure_time(line: int, text: str) -> tuple[datetime, float]:
    """The second, and the fraction of it. A time without a zone is in UTC."""
    if (found := _AZURE_TIME.fullmatch(text.strip())) is None:
        raise LineError(line, f"TIMESTAMP: {text[:40]!r} is no time")
    second, fraction, zone = found.groups()
    try:
        return datetime.fromisoformat(f"{second}{zone or '+00:00'}"), float(f"0{fraction or '.0'}")
    except ValueError as error:
        raise LineError(line, f"TIMESTAMP: {error}") from error


def _count(line: int, text: str) -> int:
    if _COUNT.fullmatch(text) is None or int(text) > _MAX_TOKENS:
        raise LineError(line, f"{text[:40]!r} is no number of tokens")
    return int(text)


def _and_then(items: Iterable[Any], last: Any) -> Iterator[Any]:
    yield from items
    yield last
