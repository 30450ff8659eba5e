"""Objects from files and folders, and what is said of those that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.adapters.manifest_files import read_manifests
from serving.errors import ConfigError

ONE = "apiVersion: v1\nkind: Secret\nmetadata: {name: %s}\n"


def test_folders_are_read_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(ONE % "b1" + "---\n---\n" + ONE % "b2")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.json").write_text(
        '{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Secret", '
        '"metadata": {"name": "a"}}]}'
    )
    (tmp_path / "notes.md").write_text("no object")
    names = [each["metadata"]["name"] for each in read_manifests([tmp_path])]
    assert names == ["a", "b1", "b2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{{ .Values }}", "is no YAML|without apiVersion|no object"),
        ("- 1", "no object"),
        ("kind: Secret", "without apiVersion"),
        ("apiVersion: v1\nkind: Secret", "without metadata"),
        ("", "no objects"),
    ],
)
def test_what_is_no_object_is_told(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_manifests([file])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_manifests([tmp_path / "none.yaml"])
