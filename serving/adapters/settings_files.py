"""Settings from a preset, a YAML file, environment variables and `--set`, each beating the last.

Sources are merged as plain mappings and validated once, so that every mistake is reported in the
same way, whichever source made it. Start with `load_settings`.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from serving.errors import ConfigError
from serving.settings import Settings

ENVIRONMENT_PREFIX = "GALERNE__"
_MAX_SHOWN_CHARS = 60
_MERGE_TAG = "tag:yaml.org,2002:merge"

_Tree = dict[str, Any]


def load_settings(
    *,
    preset: str | None,
    config: Path | None,
    environ: Mapping[str, str],
    overrides: Sequence[str],
) -> Settings:
    """The effective settings. Later wins: preset, config file, environment, overrides.

    Args:
        preset: name of a bundled preset; beats a `preset:` line of the config file.
        config: YAML file, merged into the preset mapping by mapping.
        environ: `GALERNE__GATEWAY__REPLICAS=2` sets `gateway.replicas`; upper and lower case are
            the same. Names without the double underscore are not settings.
        overrides: `PATH=VALUE` each; PATH is dotted, VALUE is YAML.

    Raises:
        ConfigError: a source cannot be read, or its content is not valid. `param` is the dotted
            path of the first mistake; the message names them all.
    """
    from_file = _read_config(config) if config is not None else {}
    chosen = from_file.pop("preset", None)
    base = _read_preset(preset if preset is not None else chosen)
    tree = _merge(base, from_file)
    for path, value in (*_from_environment(environ), *map(_from_override, overrides)):
        _assign(tree, path, value)
    return _validate(tree)


def override_settings(tree: Mapping[str, Any], overrides: Sequence[str]) -> Settings:
    """Settings given as a tree, with `PATH=VALUE` overrides on top.

    Raises:
        ConfigError: as `load_settings`.
    """
    changed = _merge({}, tree)
    for path, value in map(_from_override, overrides):
        _assign(changed, path, value)
    return _validate(changed)


def available_presets() -> list[str]:
    """Names of the bundled presets, sorted.

    >>> available_presets()
    ['cpu', 'gpu', 'sim']
    """
    folder = resources.files("serving") / "presets"
    return sorted(p.name[: -len(".yaml")] for p in folder.iterdir() if p.name.endswith(".yaml"))


def _read_preset(name: object) -> _Tree:
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


def _read_config(path: Path) -> _Tree:
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


def _parse_file(text: str, *, name: str) -> _Tree:
    try:
        content = _unshared(_parse_yaml(text))
    except yaml.YAMLError as error:
        raise _unreadable(name, _describe_yaml(error)) from error
    except RecursionError as error:
        raise _unreadable(name, "it is nested too deeply, or contains itself") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise _unreadable(name, f"it must be a mapping of sections, not {_show(content)}")
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


def _merge(base: _Tree, over: Mapping[str, Any]) -> _Tree:
    """A new mapping: mappings are merged key by key, everything else in `over` replaces.

    >>> _merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": [4]})
    {'a': {'b': 3, 'c': 2}, 'd': [4]}
    """
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            value = _merge(below, value)
        merged[key] = value
    return merged


@dataclass(frozen=True, slots=True)
class _Path:
    """A dotted path into the tree.

    Keys that the operator chose, such as model ids, may contain dots themselves: where an existing
    key fits, the longest one wins; otherwise the first dot separates.
    """

    text: str
    from_environment: bool = False

    def split(self, rest: str, *, keys: Iterable[str]) -> tuple[str, str]:
        """The first key of `rest`, and what follows it ("" at the end).

        >>> path = _Path("models.mistral-7b-v0.3.replicas")
        >>> path.split("mistral-7b-v0.3.replicas", keys=["mistral-7b-v0", "mistral-7b-v0.3"])
        ('mistral-7b-v0.3', 'replicas')
        >>> path.split("new.replicas", keys=[])
        ('new', 'replicas')
        """
        spelled = {_spell_as_variable(k) if self.from_environment else k: k for k in keys}
        fitting = [s for s in spelled if rest == s or rest.startswith(f"{s}.")]
        head = max(fitting, key=len) if fitting else rest.partition(".")[0]
        return spelled.get(head, head), rest[len(head) + 1 :]


def _spell_as_variable(name: str) -> str:
    return name.lower().replace("__", ".")


def _from_environment(environ: Mapping[str, str]) -> list[tuple[_Path, str]]:
    """Settings among the environment variables, in the order of their names."""
    return [
        (_Path(_spell_as_variable(name[len(ENVIRONMENT_PREFIX) :]), from_environment=True), value)
        for name, value in sorted(environ.items())
        if name.upper().startswith(ENVIRONMENT_PREFIX)
    ]


def _from_override(override: str) -> tuple[_Path, str]:
    path, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(
            f"{override!r} is not PATH=VALUE",
            code="setting_invalid",
            param=path,
            hint="for example --set gateway.replicas=2",
        )
    return _Path(path.strip()), value


def _assign(tree: _Tree, path: _Path, text: str) -> None:
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


def _parse_value(path: _Path, text: str) -> Any:
    try:
        return _unshared(_parse_yaml(text))
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(
            f"{path.text}: {_show(text)} is not a YAML value",
            code="setting_invalid",
            param=path.text,
            hint="put the value in quotes",
        ) from error


def _step(node: Any, path: _Path, rest: str) -> tuple[Any, str]:
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
        problem = f"{head!r} cannot be set inside the plain value {_show(node)}"
    raise ConfigError(f"{path.text}: {problem}", code="setting_invalid", param=path.text)


def _validate(tree: _Tree) -> Settings:
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise _to_config_error(error.errors(include_url=False), tree=tree) from error


def _to_config_error(details: Sequence[ErrorDetails], *, tree: _Tree) -> ConfigError:
    """One error out of pydantic's list. A union's complaints about one value become one."""
    problems: dict[str, list[ErrorDetails]] = {}
    for detail in details:
        problems.setdefault(_dotted(detail, tree=tree), []).append(detail)
    messages = [_describe(path, problem) for path, problem in problems.items()]
    unknown = details[0]["type"] == "extra_forbidden"
    return ConfigError(
        "; ".join(messages),
        code="setting_unknown" if unknown else "setting_invalid",
        # A rule over several sections has no place of its own; its text begins with the path.
        param=next(iter(problems)) or messages[0].partition(":")[0],
        hint=_hint(problems),
    )


def _dotted(detail: ErrorDetails, *, tree: _Tree) -> str:
    """The setting's path, without the parts pydantic adds for dictionary keys and union members."""
    node: Any = tree
    parts: list[str] = []
    for part in detail["loc"]:
        index = isinstance(node, list) and isinstance(part, int)
        inside = index or (isinstance(node, dict) and part in node)
        if not inside and detail["type"] != "missing":
            break
        parts.append(str(part))
        node = node[part] if inside else None
    return ".".join(parts)


def _describe(path: str, details: Sequence[ErrorDetails]) -> str:
    kind, text = details[0]["type"], details[0]["msg"]
    if kind == "extra_forbidden":
        return f"{path}: there is no such setting"
    if kind == "missing":
        return f"{path}: a value is required"
    if kind == "value_error":
        text = text.removeprefix("Value error, ")
        return f"{path}: {text}" if path else text
    allowed = " or ".join(dict.fromkeys(_allowed(detail) for detail in details))
    return f"{path}: {_show(details[0]['input'])} is not valid; it must {allowed}"


def _allowed(detail: ErrorDetails) -> str:
    if detail["type"] == "model_type":
        return "be a mapping of settings"
    return detail["msg"].partition(" should ")[2] or detail["msg"]


def _hint(problems: Mapping[str, Sequence[ErrorDetails]]) -> str:
    for path, details in problems.items():
        if details[0]["type"] == "extra_forbidden":
            return _name_hint(path, location=details[0]["loc"])
    if "models" in problems:
        return f"name a preset ({', '.join(available_presets())}) or a config file with models"
    return "`galerne config schema` describes every setting"


def _name_hint(path: str, *, location: Sequence[int | str]) -> str:
    known = _known_names(location[:-1])
    name = str(location[-1])
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {path.removesuffix(name)}{close[0]}?"
    return f"known here: {', '.join(known)}"


def _known_names(location: Sequence[int | str]) -> list[str]:
    """Names of the settings of the section at `location`."""
    annotation: Any = Settings
    for part in location:
        if _is_section(annotation):
            annotation = _without_none(annotation.model_fields[part].annotation)
        else:
            annotation = get_args(annotation)[-1]  # a mapping, whose keys the operator chose
    return list(annotation.model_fields)


def _without_none(annotation: Any) -> Any:
    """The section of a setting that may also be absent."""
    alternatives = [kind for kind in get_args(annotation) if _is_section(kind)]
    return alternatives[0] if NoneType in get_args(annotation) and alternatives else annotation


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[: _MAX_SHOWN_CHARS - 1]}…"
