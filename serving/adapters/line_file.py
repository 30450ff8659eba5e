"""A rotating file of whole lines: what does not fit on the disk leaves no half line behind."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class LineFile:
    """Appends lines to one file, which only this object writes.

    Args:
        path: the file; its folder is made with mode 0700.
        max_bytes: a file that has grown beyond it becomes `NAME.1`, that one `NAME.2`, …
        num_backups: how many of these are kept.
    """

    def __init__(self, path: Path, *, max_bytes: int, num_backups: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._num_backups = num_backups
        self._descriptor: int | None = None

    def append(self, lines: bytes) -> None:
        """All of the lines are in the file, or none of them.

        Raises:
            OSError: none of them.
        """
        descriptor = self._open()
        begin = os.fstat(descriptor).st_size
        try:
            while lines:
                lines = lines[os.write(descriptor, lines) :]
        except OSError:
            with contextlib.suppress(OSError):  # a device has no length
                os.ftruncate(descriptor, begin)
            raise
        if os.fstat(descriptor).st_size > self._max_bytes:
            self._rotate()

    def _open(self) -> int:
        if self._descriptor is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o600)
        return self._descriptor

    def _rotate(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        # A folder that refuses new names leaves the file longer than it should be.
        with contextlib.suppress(OSError):
            for number in range(self._num_backups, 0, -1):
                older = self._backup(number - 1) if number > 1 else self._path
                if older.exists():
                    older.replace(self._backup(number))

    def _backup(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
