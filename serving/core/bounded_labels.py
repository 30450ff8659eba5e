"""Names as values of a metric's label, which must stay few."""

from __future__ import annotations

MAX_TENANTS = 200
"""With a label of their own: each costs Prometheus some kilobytes per metric."""
OTHER = "other"
"""Stands for every name beyond the limit, and for itself."""


class BoundedLabels:
    """The first names that come keep their own; all further ones share `OTHER`.

    >>> labels = BoundedLabels(max_names=2)
    >>> [labels.of(name) for name in ("ann", "bob", "cid", "ann")]
    ['ann', 'bob', 'other', 'ann']
    """

    def __init__(self, max_names: int) -> None:
        self._max_names = max_names
        self._names: set[str] = set()

    def of(self, name: str) -> str:
        """The label's value for a name."""
        if name in self._names:
            return name
        if len(self._names) >= self._max_names:
            return OTHER
        self._names.add(name)
        return name
