"""Models' configurations by name or from files, and what the planner makes of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from serving.adapters.manifest import CONFIG_NAMES
from serving.errors import ConfigError
from serving.planner.engine_defaults import chosen_chunk, with_chosen_chunk
from serving.planner.model_config import ModelConfig, read_model_config
from serving.settings.model import ModelSettings

logger = logging.getLogger("ray.serve")


def bundled_models() -> list[str]:
    """Names of the models whose public configuration comes with Galerne, sorted.

    >>> bundled_models()[:3]
    ['deepseek-v3', 'demo', 'ministral-8b-2410']
    """
    names = (path.name for path in _bundle().iterdir())
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))


def load_model_config(source: str) -> ModelConfig:
    """The model of a bundled name, or of a configuration file or model folder.

    Raises:
        ConfigError: there is neither, it cannot be read (`model_config_not_found`,
            `model_config_unreadable`), or as `read_model_config`.

    >>> load_model_config("mistral-7b-v0.1").windows[0]
    4096
    """
    if source in bundled_models():
        return read_model_config(json.loads((_bundle() / f"{source}.json").read_text("utf-8")))
    path = Path(source).expanduser()
    if path.is_dir():
        return read_folder(path)
    if not path.is_file():
        raise ConfigError(
            f"{source!r} is neither a file, a model folder nor a bundled model",
            code="model_config_not_found",
            param="config",
            hint=f"bundled: {', '.join(bundled_models())}",
        )
    return read_model_config(_read(path))


def read_folder(folder: Path, *, config_format: str = "auto") -> ModelConfig:
    """The model in a folder.

    Args:
        config_format: vLLM's option. `auto` takes params.json beside Mistral's own weight files,
            config.json otherwise.

    Raises:
        ConfigError: as `load_model_config`.

    Source: `get_config` in vllm/transformers_utils/config.py, vLLM 0.32.
    """
    if config_format == "auto":
        config_format = "mistral" if any(folder.glob("consolidated*.safetensors")) else "hf"
    names = CONFIG_NAMES[::-1] if config_format == "mistral" else CONFIG_NAMES
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        raise ConfigError(
            f"the folder {folder.name} holds neither config.json nor params.json",
            code="model_config_not_found",
            param="config",
            hint="give the folder that directly holds the model's configuration",
        )
    return read_model_config(_read(found[0]))


def complete_settings(model_id: str, model: ModelSettings, folder: Path) -> ModelSettings:
    """The settings with what the planner chooses for the model in the folder.

    A model that the planner does not understand may still be one that vLLM does: it then runs with
    vLLM's own defaults.
    """
    try:
        config = read_folder(folder, config_format=model.engine.config_format)
    except ConfigError as error:
        logger.info("%s: vLLM's defaults stay: %s", model_id, error.message)
        return model
    if remark := chosen_chunk(model, config):
        logger.info("%s: %s", model_id, remark)
    return with_chosen_chunk(model, config)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(document, dict):
        raise _unreadable(path, "it holds no object")
    return document


def _unreadable(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"{path.name} is no model configuration: {reason}",
        code="model_config_unreadable",
        param="config",
        hint="give the model's config.json or params.json as it was published",
    )


def _bundle() -> Any:
    return resources.files("serving") / "planner" / "models"
