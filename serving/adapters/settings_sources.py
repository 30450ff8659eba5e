"""The sources of settings as plain mappings: preset and config files, variables, `PATH=VALUE`.

What a source says is read strictly and not yet checked against the schema; `settings_loader.py`
does that, and decides which source wins.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from serving.errors import ConfigError

ENVIRONMENT_PREFIX = "GALERNE__"
_MAX_SHOWN_CHARS = 60
_MERGE_TAG = "tag:yaml.org,2002:merge"

Tree = dict[str, Any]


def available_presets() -> list[str]:
    """Names of the bundled presets, sorted.

    >>> available_presets()
    ['cpu', 'gpu', 'sim']
    """
    folder = resources.files("serving") / "presets"
    return sorted(p.name[: -len(".yaml")] for p in folder.iterdir() if p.name.endswith(".yaml"))


def read_preset(name: object) -> Tree:
    """What a bundled preset sets; nothing for `None`.

    Raises:
        ConfigError: there is no preset of this name, which may come from a file and be anything.
    """
    if name is None:
        return {}
    presets = available_presets()
    if name not in presets:
        raise ConfigError(
            f"there is no preset {name!r}",
            code="preset_unknown",
            param="preset",
            hint=f"available: {', '.join(presets)}",
        )
    text = (resources.files("serving") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    return _parse_file(text, name=f"preset {name}")


def read_config(path: Path) -> Tree:
    """What a YAML file sets, its `preset:` line included.

    Raises:
        ConfigError: there is no such file, or it is not one mapping of strict YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"config file {str(path)!r} does not exist", code="config_not_found", param="config"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise _unreadable(str(path), reason or "it cannot be read") from error
    return _parse_file(text, name=str(path))


def _parse_file(text: str, *, name: str) -> Tree:
    try:
        content = _unshared(_parse_yaml(text))
    except yaml.YAMLError as error:
        raise _unreadable(name, _describe_yaml(error)) from error
    except RecursionError as error:
        raise _unreadable(name, "it is nested too deeply, or contains itself") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise _unreadable(name, f"it must be a mapping of sections, not {shortened(content)}")
    return content


def _unshared(value: Any) -> Any:
    """A copy in which nothing occurs twice: what YAML aliases share must not change together."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _unreadable(name: str, reason: str) -> ConfigError:
    return ConfigError(
        f"cannot read settings from {name!r}: {reason}",
        code="config_unreadable",
        param="config",
        hint="`galerne config show` prints a valid file to start from",
    )


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


def _parse_yaml(text: str) -> Any:
    loader = _StrictLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _describe_yaml(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"


@dataclass(frozen=True, slots=True)
class SettingPath:
    """A dotted path into the tree.

    Keys that the operator chose, such as model ids, may contain dots themselves: where an existing
    key fits, the longest one wins; otherwise the first dot separates.
    """

    text: str
    from_environment: bool = False

    def split(self, rest: str, *, keys: Iterable[str]) -> tuple[str, str]:
        """The first key of `rest`, and what follows it ("" at the end).

        >>> path = SettingPath("models.mistral-7b-v0.3.replicas")
        >>> path.split("mistral-7b-v0.3.replicas", keys=["mistral-7b-v0", "mistral-7b-v0.3"])
        ('mistral-7b-v0.3', 'replicas')
        >>> path.split("new.replicas", keys=[])
        ('new', 'replicas')
        """
        spelled = {_spell_as_variable(k) if self.from_environment else k: k for k in keys}
        fitting = [s for s in spelled if rest == s or rest.startswith(f"{s}.")]
        head = max(fitting, key=len) if fitting else rest.partition(".")[0]
        return spelled.get(head, head), rest[len(head) + 1 :]


def from_environment(environ: Mapping[str, str]) -> list[tuple[SettingPath, str]]:
    """Settings among the environment variables, in the order of their names."""
    return [
        (_variable_path(name), value)
        for name, value in sorted(environ.items())
        if name.upper().startswith(ENVIRONMENT_PREFIX)
    ]


def _variable_path(name: str) -> SettingPath:
    text = _spell_as_variable(name[len(ENVIRONMENT_PREFIX) :])
    return SettingPath(text, from_environment=True)


def _spell_as_variable(name: str) -> str:
    return name.lower().replace("__", ".")


def from_override(override: str) -> tuple[SettingPath, str]:
    """The path and the value, still as text, of one `PATH=VALUE`.

    Raises:
        ConfigError: there is no equals sign.
    """
    path, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(
            f"{override!r} is not PATH=VALUE",
            code="setting_invalid",
            param=path,
            hint="for example --set gateway.replicas=2",
        )
    return SettingPath(path.strip()), value


def assign(tree: Tree, path: SettingPath, text: str) -> None:
    """Set one value inside `tree`; sections on the way are made.

    Raises:
        ConfigError: `text` is not YAML, or the path leads through a plain value.
    """
    if not path.text.strip(".") or path.text.startswith(".") or path.text.endswith("."):
        raise ConfigError(
            f"{path.text!r} is not a path", code="setting_invalid", param=path.text or None
        )
    value = _parse_value(path, text)
    node: Any = tree
    rest = path.text
    while True:
        key, rest = _step(node, path, rest)
        if not rest:
            node[key] = value
            return
        if isinstance(node, dict) and node.get(key) is None:
            node[key] = {}
        node = node[key]


def _parse_value(path: SettingPath, text: str) -> Any:
    try:
        return _unshared(_parse_yaml(text))
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(
            f"{path.text}: {shortened(text)} is not a YAML value",
            code="setting_invalid",
            param=path.text,
            hint="put the value in quotes",
        ) from error


def _step(node: Any, path: SettingPath, rest: str) -> tuple[Any, str]:
    """The key or index that `rest` names in `node`, and the remaining path.

    Raises:
        ConfigError: `node` has nothing below it, or no such index.
    """
    if isinstance(node, dict):
        return path.split(rest, keys=node)
    head, _, tail = rest.partition(".")
    if isinstance(node, list):
        if head.isdecimal() and int(head) < len(node):
            return int(head), tail
        problem = f"there is no item {head!r}; the list has {len(node)}, counted from 0"
    else:
        problem = f"{head!r} cannot be set inside the plain value {shortened(node)}"
    raise ConfigError(f"{path.text}: {problem}", code="setting_invalid", param=path.text)


def shortened(value: object) -> str:
    """A value as an error message shows it: as Python writes it, cut when it is long."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[: _MAX_SHOWN_CHARS - 1]}…"
