"""What is said of presets and files that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from serving.adapters.settings_sources import read_config, read_preset
from serving.errors import ConfigError

Source = TypeVar("Source")


def refused(read: Callable[[Source], object], source: Source) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(source)
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize("preset", ["cup", "", "../cpu"])
def test_unknown_preset_lists_the_known_ones(preset: str) -> None:
    error = refused(read_preset, preset)
    assert (error.code, error.param) == ("preset_unknown", "preset")
    assert repr(preset) in error.message
    assert "cpu, gpu" in error.hint


def test_missing_file(tmp_path: Path) -> None:
    error = refused(read_config, tmp_path / "none.yaml")
    assert (error.code, error.param) == ("config_not_found", "config")
    assert "none.yaml" in error.message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a: [1", "line 1"),
        (b"a: 1\na: 2", "line 2, column 1: the key 'a' appears twice"),
        (b"models:\n  x: {b: 1, b: 2}", "'b' appears twice"),
        (b"models: {1: x}", "1 is not text"),
        (b"models: {on: x}", "True is not text"),
        (b"- a\n- b", "mapping"),
        (b"just text", "'just text'"),
        (b"\xff\xfe\xfa", "UTF-8"),
        (b"a: !!python/object:os.system x", "line 1"),
        (b"a: &a {b: *a}", "contains itself"),
        (b"a: \x07", "special characters"),
    ],
)
def test_unreadable_files_say_why(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    error = refused(read_config, path)
    assert (error.code, error.param) == ("config_unreadable", "config")
    assert reason in error.message
    assert "bad.yaml" in error.message


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    assert refused(read_config, tmp_path).code == "config_unreadable"
