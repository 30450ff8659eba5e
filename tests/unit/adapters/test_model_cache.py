"""What goes wrong with the folder of models."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from serving.adapters.model_cache import exclusive, require_space, to_cache_error
from serving.errors import ConfigError


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "disk_full"),
        (errno.EDQUOT, "disk_full"),
        (errno.EACCES, "model_cache_unusable"),
        (errno.ENOTDIR, "model_cache_unusable"),
    ],
)
def test_faults_of_the_disk_are_told_with_advice(number: int, code: str) -> None:
    error = to_cache_error(OSError(number, "no"))
    assert error.code == code
    assert "GALERNE_CACHE_DIR" in error.hint


def test_a_disk_without_room_is_refused(tmp_path: Path) -> None:
    require_space(tmp_path, 1)
    with pytest.raises(ConfigError) as caught:
        require_space(tmp_path, 2**62)
    assert caught.value.code == "disk_full"


def test_a_lock_that_nobody_holds_is_taken_without_a_word(tmp_path: Path) -> None:
    told: list[None] = []
    for _ in range(2):
        with exclusive(tmp_path / "lock", lambda: told.append(None)):
            pass
    assert told == []
