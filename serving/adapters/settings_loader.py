"""Settings from a preset, a YAML file, environment variables and `--set`, each beating the last.

The sources (`settings_sources.py`) are merged as plain mappings and validated once, so that every
mistake is reported in the same way, whichever source made it. Start with `load_settings`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from serving.adapters.schema_errors import by_path, describe, name_hint
from serving.adapters.settings_sources import (
    Tree,
    assign,
    available_presets,
    from_environment,
    from_override,
    read_config,
    read_preset,
)
from serving.errors import ConfigError
from serving.planner.hardware import GPUS
from serving.settings.platform import Settings


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
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        raise _to_config_error(error.errors(include_url=False), tree=tree) from error
    _check_prices(settings)
    return settings


def _check_prices(settings: Settings) -> None:
    for name in settings.planner.gpu_prices:
        if name.upper() not in GPUS:
            raise ConfigError(
                f"planner.gpu_prices has a price of {name!r}, which is no GPU here",
                code="gpu_unknown",
                param=f"planner.gpu_prices.{name}",
                hint=f"known: {', '.join(GPUS)}",
            )


def _to_config_error(details: Sequence[ErrorDetails], *, tree: Tree) -> ConfigError:
    """One error out of pydantic's list. A union's complaints about one value become one."""
    problems = by_path(details, tree=tree)
    messages = [describe(path, problem) for path, problem in problems.items()]
    unknown = details[0]["type"] == "extra_forbidden"
    return ConfigError(
        "; ".join(messages),
        code="setting_unknown" if unknown else "setting_invalid",
        # A rule over several sections has no place of its own; its text begins with the path.
        param=next(iter(problems)) or messages[0].partition(":")[0],
        hint=_hint(problems),
    )


def _hint(problems: Mapping[str, Sequence[ErrorDetails]]) -> str:
    if hint := name_hint(problems, root=Settings):
        return hint
    if "models" in problems:
        return f"name a preset ({', '.join(available_presets())}) or a config file with models"
    return "`galerne config schema` describes every setting"
