"""Settings that are read while others write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.adapters import settings_file
from serving.adapters.settings_file import SettingsFile, write_settings
from serving.errors import ConfigError
from serving.settings.platform import Settings


def settings(replicas: int) -> Settings:
    return Settings.model_validate({"models": {"a": {"simulator": {}, "replicas": replicas}}})


def test_a_file_that_never_was_is_no_settings(tmp_path: Path) -> None:
    assert SettingsFile(tmp_path / "settings.json").latest() is None


def test_changes_are_seen_and_nothing_else_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    write_settings(path, settings(1))
    file = SettingsFile(path)
    first = file.latest()
    assert first == settings(1)
    assert file.latest() is first
    write_settings(path, settings(2))
    assert file.latest() == settings(2)
    assert path.stat().st_mode & 0o777 == 0o600


def test_settings_that_cannot_be_written_leave_the_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    write_settings(path, settings(1))
    with pytest.raises(ConfigError) as caught:
        write_settings(tmp_path / "none" / "settings.json", settings(2))
    assert caught.value.code == "settings_unwritable"
    assert "make room" in caught.value.hint
    assert SettingsFile(path).latest() == settings(1)


def test_a_swapped_link_is_seen(tmp_path: Path) -> None:
    """As Kubernetes changes a mounted ConfigMap."""
    link = tmp_path / "settings.json"
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_settings(folder / "settings.json", settings(number))
    link.symlink_to(tmp_path / "1" / "settings.json")
    file = SettingsFile(link)
    assert file.latest() == settings(1)
    fresh = tmp_path / "fresh"
    fresh.symlink_to(tmp_path / "2" / "settings.json")
    fresh.replace(link)
    assert file.latest() == settings(2)


@pytest.mark.parametrize("content", ["", "{", '{"models": {}}', '{"models": {"a": {"typo": 1}}}'])
def test_a_broken_file_leaves_the_settings_and_is_told_once(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(settings_file.logger, "error", lambda line, *_: told.append(line))
    path = tmp_path / "settings.json"
    write_settings(path, settings(1))
    file = SettingsFile(path)
    file.latest()
    path.write_text(content)
    assert [file.latest() for _ in range(3)] == [settings(1)] * 3
    assert len(told) == 1
    path.unlink()
    assert file.latest() == settings(1)
    write_settings(path, settings(3))
    assert file.latest() == settings(3)
