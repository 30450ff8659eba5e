"""Figures as people read them."""

from __future__ import annotations

import math
from datetime import UTC, datetime

DASH = "—"
"""Stands for what was not measured."""

_MS_PER_UNIT = {"d": 86_400_000.0, "h": 3_600_000.0, "min": 60_000.0, "s": 1000.0, "ms": 1.0}


def number(value: float | None) -> str:
    """Three significant digits, all digits before the point; a dash for what was not measured.

    >>> [number(value) for value in (0.0421, 4.0, 42.129, 1234.5, 0, None)]
    ['0.0421', '4.00', '42.1', '1,234', '0', '—']
    """
    if value is None or math.isnan(value):
        return DASH
    if value == 0 or math.isinf(value):
        return f"{value:g}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(decimals, 6)}f}"


def exact(value: float | None) -> str:
    """Seven significant digits, so that what misses a limit does not look as if it kept it.

    >>> [exact(value) for value in (500.4, 500.0, 0.9896, 12345.5, None)]
    ['500.4', '500', '0.9896', '12,345.5', '—']
    """
    return DASH if value is None else f"{value:,.7g}"


def whole(count: int) -> str:
    """A count.

    >>> whole(1234567)
    '1,234,567'
    """
    return f"{count:,}"


def percent(part: float, of: float) -> str:
    """What share `part` is; a dash of nothing. Less than all is never rounded to all.

    >>> percent(1, 3), percent(99_999, 100_000), percent(1, 100_000), percent(0, 0)
    ('33.3 %', '> 99.9 %', '< 0.1 %', '—')
    """
    if not of:
        return DASH
    share = 100 * part / of
    if 0 < share < 0.1:
        return "< 0.1 %"
    return "> 99.9 %" if 99.9 < share < 100 else f"{share:.3g} %"


def span(ms: float) -> str:
    """A length of time in the unit that suits it.

    >>> [span(ms) for ms in (0.25, 40, 1500, 90_000, 5_400_000, 0)]
    ['0.25 ms', '40 ms', '1.5 s', '1.5 min', '1.5 h', '0 ms']
    """
    unit = next((unit for unit, size in _MS_PER_UNIT.items() if abs(ms) >= size), "ms")
    return f"{ms / _MS_PER_UNIT[unit]:.3g} {unit}"


def moment(iso: str) -> str:
    """A time in UTC, of one in ISO 8601; what is none stays as it is.

    >>> moment("2026-03-04T07:06:07.123+02:00"), moment("yesterday")
    ('2026-03-04 05:06:07 UTC', 'yesterday')
    """
    try:
        read = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{read.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
