"""Secret files are private, made once, and never empty."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving.adapters.secrets_file import check_room, ensure_secret, read_secret
from serving.errors import ConfigError

RACERS = 8


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "token"


def test_a_secret_is_made_once_and_private(path: Path) -> None:
    secret = ensure_secret(path)

    assert len(secret) == 43
    assert ensure_secret(path) == read_secret(path) == secret
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("attempt", range(10))
def test_whoever_races_to_create_it_gets_the_same_secret(path: Path, attempt: int) -> None:
    barrier = threading.Barrier(RACERS)

    def race(_: int) -> str:
        barrier.wait()
        return ensure_secret(path)

    with ThreadPoolExecutor(RACERS) as pool:
        secrets = set(pool.map(race, range(RACERS)))

    assert secrets == {read_secret(path)}
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "mode", "code"),
    [
        (b"token", 0o640, "secret_file_exposed"),
        (b"token", 0o604, "secret_file_exposed"),
        (b" \n", 0o600, "secret_file_empty"),
        (b"\xff\xfe", 0o600, "secret_file_unreadable"),
    ],
)
def test_bad_files_are_refused(path: Path, content: bytes, mode: int, code: str) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    path.chmod(mode)

    for read in (read_secret, ensure_secret):
        with pytest.raises(ConfigError) as caught:
            read(path)
        assert caught.value.code == code
        assert "token" not in caught.value.message
        assert caught.value.hint


@pytest.mark.parametrize(
    ("owner", "mode", "is_read"),
    [(0, 0o440, True), (0, 0o444, False), (0, 0o460, False), (1000, 0o440, False)],
)
def test_a_mounted_secret_may_be_read_by_its_group(
    path: Path, monkeypatch: pytest.MonkeyPatch, owner: int, mode: int, is_read: bool
) -> None:
    """Kubernetes gives it to root and to the pod's group."""
    path.parent.mkdir()
    path.write_bytes(b"token")
    path.chmod(mode)
    if os.geteuid() == 0:
        os.chown(path, owner, -1)
    elif owner == 0:
        pytest.skip("only root may give a file to root")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    if is_read:
        assert read_secret(path) == "token"
        return
    with pytest.raises(ConfigError) as caught:
        read_secret(path)
    assert caught.value.code == "secret_file_exposed"


def test_an_exposed_file_names_the_remedy(path: Path) -> None:
    ensure_secret(path)
    path.chmod(0o644)

    with pytest.raises(ConfigError) as caught:
        read_secret(path)

    assert "chmod 600" in caught.value.hint


def test_white_space_around_the_secret_is_ignored(path: Path) -> None:
    path.parent.mkdir()
    path.touch(0o600)
    path.write_text("  token\n")

    assert read_secret(path) == "token"


def test_a_missing_file_is_an_error_for_readers(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_secret(path)

    assert caught.value.code == "secret_file_missing"


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError) as caught:
        ensure_secret(tmp_path / "file" / "token")

    assert caught.value.code == "secret_file_unwritable"


def test_a_folder_with_room_is_left_as_it_was(tmp_path: Path) -> None:
    check_room(tmp_path / "state")
    assert list((tmp_path / "state").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(ConfigError, match="cannot be written") as refused:
        check_room(tmp_path / "state")
    assert refused.value.code == "state_dir_unwritable"
    assert str(tmp_path / "state") in refused.value.hint
