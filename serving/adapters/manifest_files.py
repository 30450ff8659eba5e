"""Kubernetes objects from YAML and JSON files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from serving.errors import ConfigError

_SUFFIXES = (".yaml", ".yml", ".json")


def read_manifests(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The objects of files, and of folders with all folders in them, in the order of their names.

    Raises:
        ConfigError: `manifest_unreadable`, `manifest_invalid` or `manifest_missing`.
    """
    found = [each for path in paths for file in _files(path) for each in _objects(file)]
    if not found:
        raise ConfigError(
            "there are no objects in what was given",
            code="manifest_missing",
            hint=f"files that end in {', '.join(_SUFFIXES)}, or folders with such files",
        )
    return found


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    yield from sorted(each for each in path.rglob("*") if each.suffix in _SUFFIXES)


def _objects(file: Path) -> Iterator[dict[str, Any]]:
    try:
        documents = list(yaml.safe_load_all(file.read_text()))
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read: {error.strerror}", code="manifest_unreadable"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise _invalid(file, f"is no YAML: {reason}") from error
    for document in documents:
        if document is None:
            continue
        items = document.get("items", []) if _is_list(document) else [document]
        for each in items:
            _check(each, file)
            yield each


def _is_list(document: Any) -> bool:
    return isinstance(document, dict) and document.get("kind") == "List"


def _check(value: Any, file: Path) -> None:
    if not isinstance(value, dict):
        raise _invalid(file, "holds something that is no object")
    for field in ("apiVersion", "kind"):
        if not isinstance(value.get(field), str):
            raise _invalid(file, f"has an object without {field}")
    metadata = value.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise _invalid(file, f"has a {value['kind']} without metadata.name")


def _invalid(file: Path, problem: str) -> ConfigError:
    return ConfigError(
        f"{file} {problem}",
        code="manifest_invalid",
        hint="templates of a chart are none: helm template renders them",
    )
