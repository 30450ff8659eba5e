"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write a file that takes its name, `path`, on exit, when all of it is on the disk.

    If the disk is full, or somebody stops the process, what was at `path` before is as it was, and
    what was written is gone. The name to write to ends as `path` does, by which writers know the
    format.

    Raises:
        OSError: it cannot be written.
    """
    half = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        yield half
        _sync(half)
        half.replace(path)
    finally:
        # What went wrong before this is what a person should know.
        with suppress(OSError):
            half.unlink()


def _sync(path: Path) -> None:
    """Some file systems find out only now that there is no room for what was written."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
