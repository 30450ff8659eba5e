"""Programs of Debian's packages, unpacked into the cache folder instead of installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from serving.adapters.state_paths import StatePaths


def unpacked(program: str, *packages: str) -> Path:
    """Path of a program of these packages, whose files are where they would be under `/`.

    Skips the test, with the reason, where they cannot be had.
    """
    folder = StatePaths.from_environment().cache_dir / "tools" / packages[0]
    path = folder / "usr" / "bin" / program
    if not path.exists():
        _unpack(folder, packages)
    return path


def _unpack(folder: Path, packages: tuple[str, ...]) -> None:
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        pytest.skip(f"this is not Debian, whose packages would do: {' '.join(packages)}")
    folder.mkdir(parents=True, exist_ok=True)
    download = ["apt-get", "download", *packages]
    # A fresh machine has no package lists, and only root may fetch them.
    for command in (download, ["apt-get", "update"], download):
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=300, check=False
        )
        if done.returncode == 0 and command == download:
            for package in folder.glob("*.deb"):
                subprocess.run(["dpkg-deb", "-x", package, folder], check=True, timeout=60)
                package.unlink()
            return
    pytest.skip(f"Debian's packages cannot be fetched: {done.stderr.strip()[-300:]}")
