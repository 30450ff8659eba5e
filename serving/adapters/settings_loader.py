"""Settings from a preset, a YAML file, environment variables and `--set`, each beating the last.

The sources (`settings_sources.py`) are merged as plain mappings and validated once, so that every
mistake is reported in the same way, whichever source made it. Start with `load_settings`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from serving.adapters.settings_sources import (
    Tree,
    assign,
    available_presets,
    from_environment,
    from_override,
    read_config,
    read_preset,
    shortened,
)
from serving.errors import ConfigError
from serving.settings import Settings


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
    from_file = read_config(config) if config is not None else {}
    chosen = from_file.pop("preset", None)
    base = read_preset(preset if preset is not None else chosen)
    tree = _merge(base, from_file)
    for path, value in (*from_environment(environ), *map(from_override, overrides)):
        assign(tree, path, value)
    return _validate(tree)


def override_settings(tree: Mapping[str, Any], overrides: Sequence[str]) -> Settings:
    """Settings given as a tree, with `PATH=VALUE` overrides on top.

    Raises:
        ConfigError: as `load_settings`.
    """
    changed = _merge({}, tree)
    for path, value in map(from_override, overrides):
        assign(changed, path, value)
    return _validate(changed)


def _merge(base: Tree, over: Mapping[str, Any]) -> Tree:
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


def read_settings_json(path: Path) -> Settings:
    """The settings of a file as `settings_file.write_settings` makes them, and nothing else's.

    Raises:
        ConfigError: `config_unreadable`, `setting_unknown`, `setting_invalid`.
    """
    try:
        tree = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"the settings file cannot be read: {error.strerror}",
            code="config_unreadable",
            hint=f"Expected {path}. `galerne up` and `galerne apply` write settings.json in the "
            "state folder.",
        ) from error
    except ValueError as error:
        raise ConfigError(
            "the settings file is not JSON",
            code="config_unreadable",
            hint=f"{path} must be as `galerne up` writes settings.json.",
        ) from error
    if not isinstance(tree, dict):
        raise ConfigError("the settings file holds no JSON object", code="config_unreadable")
    return _validate(tree)


def _validate(tree: Tree) -> Settings:
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise _to_config_error(error.errors(include_url=False), tree=tree) from error


def _to_config_error(details: Sequence[ErrorDetails], *, tree: Tree) -> ConfigError:
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


def _dotted(detail: ErrorDetails, *, tree: Tree) -> str:
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
    return f"{path}: {shortened(details[0]['input'])} is not valid; it must {allowed}"


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
