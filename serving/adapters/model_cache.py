"""The folder of prepared and downloaded models: room, locks, and what goes wrong with them."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.errors import ConfigError

Progress = Callable[[str, float | None, float | None], None]
"""Called with the step's name, what is done and the total, both `None` if unknown."""


def no_progress(_step: str, _done: float | None, _total: float | None) -> None:
    """Nobody is watching."""


@contextmanager
def exclusive(lock_path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Only one process of this machine is here; the kernel drops the lock of one that dies.

    Args:
        lock_path: a file that is made if absent, and stays.
        waiting: called once if another process holds the lock.
    """
    with lock_path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def require_space(folder: Path, needed_bytes: int) -> None:
    """The disk under `folder` has room for `needed_bytes`.

    Raises:
        ConfigError: `disk_full`.
    """
    if shutil.disk_usage(folder).free < needed_bytes:
        raise disk_full()


def sync_to_disk(path: Path) -> None:
    """What was written to the file, or the names in the folder, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def disk_full() -> ConfigError:
    """The error for a disk with no room for a model."""
    return ConfigError(
        "the disk has no room for the model",
        code="disk_full",
        hint="Free some space, or set GALERNE_CACHE_DIR (HF_HOME for Hugging Face models) to a "
        "folder on a larger disk.",
    )


def to_cache_error(error: OSError) -> ConfigError:
    """The `ConfigError` for what went wrong with a file of the cache."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return disk_full()
    return ConfigError(
        f"the model cache cannot be written: {error.strerror}",
        code="model_cache_unusable",
        hint="Set GALERNE_CACHE_DIR to a folder that you may write to.",
    )
