"""A scaling policy for tests: the replicas that a file orders."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class OrderedReplicas:
    """Replicas as the file says. Serve constructs it in its controller.

    Args:
        file: path of a file that holds a number.
    """

    def __init__(self, file: str) -> None:
        self._file = Path(file)

    def __call__(self, _context: Any) -> tuple[int, dict[str, Any]]:
        return int(self._file.read_text()), {}
