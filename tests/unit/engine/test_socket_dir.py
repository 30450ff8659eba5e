"""What killed replicas leave is removed, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from serving.engine.socket_dir import make_socket_dir


def test_folders_of_dead_processes_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f"galerne-engine-{dead.pid}-abc"
    left.mkdir()
    (left / "events").touch()
    others = [
        tmp_path / name for name in ("galerne-engine-1-abc", "galerne-engine-", "galerne-0123")
    ]
    for other in others:
        other.mkdir()

    first, second = make_socket_dir(), make_socket_dir()

    assert sorted(tmp_path.iterdir()) == sorted([*others, first, second])
    assert first.stat().st_mode & 0o777 == 0o700
