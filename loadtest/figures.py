"""Figures as JSON lines and Markdown. Pure."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal, Protocol

_SIGNIFICANT_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Line:
    """One figure.

    `ratio` is `value` over that of the subject `against`; `spread` is the least and the greatest of
    the measurements behind `value`, or behind `ratio` where `spread_of_ratio` says so. A `value` of
    `None` was not measured, and `note` tells why.
    """

    case: str
    subject: str
    value: float | None
    unit: str
    ratio: float | None = None
    against: str | None = None
    spread: tuple[float, float] | None = None
    note: str | None = None

    def to_json(self) -> str:
        """One line of JSON; a note only where there is one."""
        fields = asdict(self)
        if self.note is None:
            del fields["note"]
        return json.dumps(fields, ensure_ascii=False)

    def cells(self) -> dict[str, str]:
        """A row of a table."""
        spread = self.spread
        return {
            "case": self.case,
            "subject": self.subject,
            "value": _number(self.value),
            "unit": self.unit,
            "ratio": _number(self.ratio),
            "against": self.against or "",
            "spread": "" if spread is None else f"{_number(spread[0])} to {_number(spread[1])}",
            "note": self.note or "",
        }


class Row(Protocol):
    """A line of results."""

    def to_json(self) -> str:
        """As JSON, in one line."""

    def cells(self) -> dict[str, str]:
        """As a row of a table, by column; every row of a bench has the same ones."""


def skipped(case: str, subject: str, reason: str) -> Line:
    """A subject that could not be measured."""
    return Line(case, subject, None, "", note=f"skipped: {reason}")


def rounded(value: float) -> float:
    """`value` with as many digits as a measurement deserves.

    >>> rounded(1234.567), rounded(0.0123456), rounded(0.0)
    (1235.0, 0.01235, 0.0)
    """
    return float(f"{value:.{_SIGNIFICANT_DIGITS}g}")


def summary(case: str, subject: str, values: Sequence[float], *, unit: str) -> Line:
    """The median of repeated measurements with the least and the greatest.

    >>> summary("c", "s", [3.0, 1.0, 2.0], unit="ms").spread
    (1.0, 3.0)
    """
    spread = (rounded(min(values)), rounded(max(values))) if len(values) > 1 else None
    return Line(case, subject, rounded(statistics.median(values)), unit, spread=spread)


def compare(line: Line, base: Line | None) -> Line:
    """`line` with its ratio to `base`; unchanged where either was not measured or is not positive.

    >>> compare(Line("c", "a", 30.0, "ms"), Line("c", "b", 20.0, "ms")).ratio
    1.5
    """
    if base is None or line.value is None or base.value is None or base.value <= 0:
        return line
    return replace(line, ratio=rounded(line.value / base.value), against=base.subject)


def paired_ratio(
    case: str, subject: str, values: Sequence[float], *, against: str, base: Sequence[float]
) -> Line:
    """The ratio of two subjects measured in turn, pair by pair: median, least and greatest.

    A slow drift of the machine moves both of a pair, so it moves the ratio less than the medians.

    Args:
        values, base: as many of one as of the other, in the order they were measured.

    >>> paired_ratio("c", "a", [10.0, 30.0, 20.0], against="b", base=[10.0, 20.0, 20.0]).ratio
    1.0
    """
    ratios = [value / other for value, other in zip(values, base, strict=True)]
    line = summary(case, subject, ratios, unit="ratio")
    return replace(line, ratio=line.value, against=against)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of `values` lie, interpolated; at least one value.

    >>> quantile([4.0, 1.0, 3.0, 2.0], 0.5), quantile([1.0, 2.0], 1.0)
    (2.5, 2.0)
    """
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def blocks(values: Sequence[float], count: int) -> list[Sequence[float]]:
    """`values` in order, cut into at most `count` parts of nearly equal length, none empty.

    >>> blocks([1.0, 2.0, 3.0, 4.0, 5.0], 2)
    [[1.0, 2.0], [3.0, 4.0, 5.0]]
    """
    count = max(min(count, len(values)), 1)
    edges = [len(values) * i // count for i in range(count + 1)]
    return [values[low:high] for low, high in pairwise(edges)]


def markdown(bench: str, machine: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """A document with the machine and one table of all figures."""
    about = [f"- {name}: {_machine_value(value)}" for name, value in machine.items()]
    cells = [row.cells() for row in rows]
    columns = list(cells[0]) if cells else []
    table = [
        columns,
        ["---"] * len(columns),
        *([_escaped(c) for c in row.values()] for row in cells),
    ]
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([f"# Bench: {bench}", "", *about, "", *lines, ""])


def _machine_value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return str(value)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


Pick = Literal["median", "max", "min"]


@dataclass(slots=True)
class _Entry:
    unit: str
    values: list[float]
    ratios: list[float]
    against: str | None
    pick: Pick


class Figures:
    """Measurements as they come in, by case and subject, in the order they were first seen."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._skipped: list[Line] = []

    def add(
        self,
        case: str,
        subject: str,
        value: float,
        *,
        unit: str,
        direct: float | None = None,
        pick: Pick = "median",
    ) -> None:
        """One more measurement.

        Args:
            pick: which of the measurements the figure is; a failure must not hide in a median.
            direct: the same without the subject in between; then `value` is what it adds to that.
        """
        against = None if direct is None else "direct"
        entry = self._entries.setdefault((case, subject), _Entry(unit, [], [], against, pick))
        entry.values.append(value)
        if direct:
            entry.ratios.append((direct + value) / direct)

    def skip(self, bench: str, subject: str, reason: str) -> None:
        """The subject could not be measured."""
        self._skipped.append(skipped(bench, subject, reason))

    def values(self, case: str, subject: str) -> list[float]:
        """All measurements of one figure, oldest first."""
        entry = self._entries.get((case, subject))
        return list(entry.values) if entry else []

    def lines(self, *, base: str | None = None) -> list[Line]:
        """One line per figure, by case. Those without a direct measurement are compared to `base`.

        >>> figures = Figures()
        >>> figures.add("c", "a", 10.0, unit="ms", direct=40.0)
        >>> figures.lines()[0].ratio, figures.lines()[0].against
        (1.25, 'direct')
        """
        cases = list(dict.fromkeys(case for case, _ in self._entries))
        found = [line for case in cases for line in self._case(case, base)]
        return [*found, *self._skipped]

    def _case(self, case: str, base: str | None) -> list[Line]:
        entries = {s: entry for (c, s), entry in self._entries.items() if c == case}
        made = {s: _figure(case, s, e) for s, e in entries.items()}
        for subject, entry in entries.items():
            if entry.ratios:
                ratio = rounded(statistics.median(entry.ratios))
                made[subject] = replace(made[subject], ratio=ratio, against=entry.against)
            elif base is not None and subject != base:
                made[subject] = compare(made[subject], made.get(base))
        return list(made.values())


def _figure(case: str, subject: str, entry: _Entry) -> Line:
    line = summary(case, subject, entry.values, unit=entry.unit)
    if entry.pick == "median":
        return line
    worst = max(entry.values) if entry.pick == "max" else min(entry.values)
    return replace(line, value=rounded(worst))
