"""Documents that people write: YAML or JSON, checked against a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from serving.adapters.schema_errors import by_path, describe, name_hint, shortened
from serving.adapters.strict_yaml import NotYaml, parse_yaml
from serving.errors import ConfigError

ModelT = TypeVar("ModelT", bound=BaseModel)


def read_document(path: Path, kind: type[ModelT], *, what: str) -> ModelT:
    """What a file says: JSON if its name ends in `.json`, else YAML.

    Args:
        what: what the file is, in the words of an error and as the beginning of its code: `slo`.

    Raises:
        ConfigError: the file cannot be read (`<what>_unreadable`), or says something that `kind`
            does not take (`<what>_invalid`). The message names the file and every mistake, `param`
            is the dotted path of the first.
    """
    tree = _read_tree(path, what)
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        problems = by_path(error.errors(include_url=False), tree=tree)
        mistakes = "; ".join(describe(*problem) for problem in problems.items())
        raise ConfigError(
            f"{path}: {mistakes}",
            code=f"{what}_invalid",
            param=next(iter(problems)) or None,
            hint=name_hint(problems, root=kind) or "",
        ) from error


def _read_tree(path: Path, what: str) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        tree = _parse_json(text) if path.suffix == ".json" else parse_yaml(text)
    except OSError as error:
        raise _unreadable(path, what, error.strerror or "it cannot be read") from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, what, "it is not UTF-8 text") from error
    except (NotYaml, ValueError, RecursionError) as error:
        raise _unreadable(path, what, str(error)) from error
    if tree is None:
        raise _unreadable(path, what, "it is empty")
    if not isinstance(tree, dict):
        raise _unreadable(path, what, f"it must be a mapping, not {shortened(tree)}")
    return tree


def _parse_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_each_once)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} appears twice")
    return made


def _unreadable(path: Path, what: str, reason: str) -> ConfigError:
    return ConfigError(f"cannot read {path}: {reason}", code=f"{what}_unreadable", param=what)
