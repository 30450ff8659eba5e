"""Kubernetes quantities as numbers."""

from __future__ import annotations

import re

_QUANTITY = re.compile(r"([+-]?[0-9.]+)(m|[kMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]+)?")
_UNITS = {"": 1.0, "m": 1e-3} | {
    prefix + suffix: base ** (power + 1)
    for suffix, base, prefixes in (("", 1000.0, "kMGTPE"), ("i", 1024.0, "KMGTPE"))
    for power, prefix in enumerate(prefixes)
}


def to_number(quantity: str | float | None) -> float:
    """The number a quantity stands for: cores, bytes, devices. Nothing counts 0.

    Source: kubernetes.io, Quantity.

    Raises:
        ValueError: it is no quantity.

    >>> to_number("500m"), to_number("2Gi"), to_number(8), to_number("1e3"), to_number(None)
    (0.5, 2147483648.0, 8.0, 1000.0, 0.0)
    """
    if quantity is None:
        return 0.0
    match = _QUANTITY.fullmatch(str(quantity).strip())
    if match is None:
        raise ValueError(f"{quantity!r} is no quantity")
    unit = match[2] or ""
    if unit[:1] in ("e", "E") and len(unit) > 1 and unit != "Ei":
        return float(match[1] + unit)
    return float(match[1]) * _UNITS[unit]


def to_text(num_bytes: float) -> str:
    """Bytes in their largest binary unit.

    >>> to_text(2147483648), to_text(67108864)
    ('2Gi', '64Mi')
    """
    for power, unit in ((4, "Ti"), (3, "Gi"), (2, "Mi"), (1, "Ki")):
        if num_bytes >= 1024**power:
            return f"{num_bytes / 1024**power:.3g}{unit}"
    return f"{num_bytes:.0f}"
