"""Whole lines or none, and no more of them than fits."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.adapters.line_file import LineFile


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    if os.getuid() != 0:
        pytest.skip("only root can mount a small file system")
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mount is not allowed here")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_full_disk_leaves_no_half_line(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(b"x" * 20_000)
    path = small_disk / "lines"
    file = LineFile(path, max_bytes=1 << 20, num_backups=1)
    line = b"y" * 999 + b"\n"
    with contextlib.suppress(OSError):
        while True:
            file.append(line)
    with pytest.raises(OSError, match="No space left"):
        file.append(line)
    written = path.read_bytes()
    assert written
    assert written == line * (len(written) // 1000)

    (small_disk / "ballast").unlink()
    file.append(line)
    assert path.read_bytes() == written + line


def test_old_lines_go_to_a_bounded_number_of_backups(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    file = LineFile(path, max_bytes=10, num_backups=2)
    for number in range(4):
        file.append(b"%d: 3456789\n" % number)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["lines.1", "lines.2"]
    assert (tmp_path / "lines.1").read_text() == "3: 3456789\n"
    assert (tmp_path / "lines.2").read_text() == "2: 3456789\n"


def test_a_file_that_has_vanished_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "lines"
    file = LineFile(path, max_bytes=5, num_backups=1)
    file.append(b"first line\n")
    for entry in path.parent.iterdir():
        entry.unlink()
    path.parent.rmdir()
    file.append(b"next\n")
    assert path.read_text() == "next\n"
