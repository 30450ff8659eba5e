"""The folder of a replica's UNIX sockets."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "galerne-engine-"
"""Followed by the process that uses it."""


def make_socket_dir() -> Path:
    """A new folder that is nobody else's, with a short path: sockets have 107 characters.

    Replicas are killed as often as they end, so what earlier ones have left is removed here.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)  # of another user, or gone meanwhile
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
