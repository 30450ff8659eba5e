"""YAML, read strictly: what PyYAML would take silently is refused."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

_MERGE_TAG = "tag:yaml.org,2002:merge"


class NotYaml(ValueError):
    """A text is no YAML, or ambiguous; what it says is why and, where known, at which place."""


def parse_yaml(text: str) -> Any:
    """What a text of one YAML document says, as plain dicts, lists and scalars.

    Raises:
        NotYaml: it is malformed, a key is not text or occurs twice, or it contains itself.

    >>> parse_yaml("a: {b: [1, 2]}")
    {'a': {'b': [1, 2]}}
    >>> parse_yaml("{a: 1, a: 2}")
    Traceback (most recent call last):
        ...
    serving.adapters.strict_yaml.NotYaml: line 1, column 8: the key 'a' appears twice
    """
    try:
        return _unshared(_load(text))
    except yaml.YAMLError as error:
        raise NotYaml(_describe(error)) from error
    except RecursionError as error:
        raise NotYaml("it is nested too deeply, or contains itself") from error


def _load(text: str) -> Any:
    loader = _StrictLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class _StrictLoader(yaml.SafeLoader):
    """YAML whose mappings have text keys, each once: PyYAML silently keeps the last of two."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE_TAG:
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _mapping_error(f"the key {key!r} is not text; put it in quotes", key_node)
            if key in seen:
                raise _mapping_error(f"the key {key!r} appears twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _mapping_error(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _unshared(value: Any) -> Any:
    """A copy in which nothing occurs twice: what YAML aliases share must not change together."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _describe(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
