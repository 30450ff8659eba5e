"""The sources of settings as plain mappings: preset and config files, variables, `PATH=VALUE`.

What a source says is read strictly and not yet checked against the schema; `settings_loader.py`
does that, and decides which source wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from serving.adapters.schema_errors import shortened
from serving.adapters.strict_yaml import NotYaml, parse_yaml
from serving.errors import ConfigError

ENVIRONMENT_PREFIX = "GALERNE__"

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
        content = parse_yaml(text)
    except NotYaml as error:
        raise _unreadable(name, str(error)) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise _unreadable(name, f"it must be a mapping of sections, not {shortened(content)}")
    return content


def _unreadable(name: str, reason: str) -> ConfigError:
    return ConfigError(
        f"cannot read settings from {name!r}: {reason}",
        code="config_unreadable",
        param="config",
        hint="`galerne config show` prints a valid file to start from",
    )


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
        return parse_yaml(text)
    except NotYaml as error:
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
