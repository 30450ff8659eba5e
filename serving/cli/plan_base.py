"""The settings that a plan is for: which of their models is meant, and what it already says."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving.adapters.model_configs import load_model_config, read_folder
from serving.errors import ConfigError
from serving.planner.engine_defaults import by_option
from serving.planner.model_config import ModelConfig
from serving.settings.engine import EngineSettings
from serving.settings.model import ModelSettings
from serving.settings.platform import Settings
from serving.settings.weights import DEMO_SOURCE

_NOT_PLANNED = frozenset(
    {
        "cpu-offload-gb", "data-parallel-size", "decode-context-parallel-size",
        "hf-overrides", "kv-cache-memory-bytes", "num-gpu-blocks-override",
        "prefill-context-parallel-size", "quantization", "speculative-config",
    }
)  # fmt: skip
"""Of `engine.extra_args`: what moves memory or steps, and a plan knows nothing of."""


@dataclass(frozen=True, slots=True)
class Base:
    """Settings without defaults, and the name of the model in them that is planned."""

    tree: dict[str, Any]
    name: str
    engine: EngineSettings

    @property
    def kv_dtype(self) -> str:
        """What the model's engine options say of the KV cache's type."""
        return str(by_option(self.engine.extra_args).get("kv-cache-dtype", "auto"))


def read_base(asked: str, settings: Settings | None) -> Base:
    """What a plan of the model asked for is written over.

    Raises:
        ConfigError: it is not known where the weights are (`weights_unknown`), which model is meant
            (`model_ambiguous`), or its engine has options that are not planned for
            (`engine_option_unplanned`).
    """
    if settings is None:
        tree = _from_scratch(asked)
        return Base(tree, next(iter(tree["models"])), EngineSettings())
    name = _name(asked, settings)
    engine = settings.models[name].engine
    for option, value in _unplanned(engine):
        raise ConfigError(
            f"models.{name}.engine.{option} is {value}, which a plan does not reckon with",
            code="engine_option_unplanned",
            param=f"models.{name}.engine.{option}",
            hint="remove it from the settings of --config",
        )
    return Base(settings.model_dump(mode="json", exclude_unset=True), name, engine)


def planned_model(asked: str, settings: Settings | None) -> ModelConfig:
    """The configuration of a model of the settings, by its name, or as `load_model_config`.

    Raises:
        ConfigError: as `load_model_config`, or the weights are not on this machine.
    """
    if settings is None or asked not in settings.models:
        return load_model_config(asked)
    if (found := own_config(settings.models[asked])) is None:
        raise ConfigError(
            f"the files of {asked} are not on this machine",
            code="model_config_not_found",
            param="--model",
            hint="give its config.json with --model, and settings with this model alone",
        )
    return found


def check_same(name: str, own: ModelConfig | None, planned: ModelConfig) -> None:
    """Return if the settings' model is the one that was planned, or its files are not here.

    Raises:
        ConfigError: it is another (`model_differs`).
    """
    if own is not None and own != planned:
        different = [
            field for field, value in asdict(own).items() if value != asdict(planned)[field]
        ]
        raise ConfigError(
            f"the settings' model {name} has another configuration than --model: it differs in "
            f"{', '.join(different)}",
            code="model_differs",
            param="--model",
            hint=f"plan that one with --model {name}, or give the settings of the other",
        )


def own_config(model: ModelSettings) -> ModelConfig | None:
    """What the model's folder says, `None` where there is none on this machine.

    Raises:
        ConfigError: as `read_folder`.
    """
    weights = model.weights
    if weights is None:
        return None
    if weights.source == DEMO_SOURCE:
        return load_model_config(DEMO_SOURCE)
    folder = Path(weights.source).expanduser()
    if not weights.is_local or not folder.is_dir():
        return None
    return read_folder(folder, config_format=model.engine.config_format)


def _unplanned(engine: EngineSettings) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    if engine.pipeline_parallel_size > 1:
        found.append(("pipeline_parallel_size", engine.pipeline_parallel_size))
    if engine.kv_cache_gib is not None:
        found.append(("kv_cache_gib", engine.kv_cache_gib))
    if engine.dtype == "float32":
        found.append(("dtype", engine.dtype))
    if engine.enforce_eager:
        found.append(("enforce_eager", engine.enforce_eager))
    extra = by_option(engine.extra_args)
    return found + [(f"extra_args.{name}", extra[name]) for name in sorted(_NOT_PLANNED & {*extra})]


def _from_scratch(model: str) -> dict[str, Any]:
    folder = Path(model).expanduser()
    if folder.is_dir():
        source = str(folder.resolve())
        return {"models": {folder.resolve().name: {"weights": {"source": source}}}}
    if model == DEMO_SOURCE:
        return {"models": {model: {"weights": {"source": DEMO_SOURCE}}}}
    raise ConfigError(
        f"a configuration does not tell where the weights of {model} are",
        code="weights_unknown",
        param="--apply",
        hint="name settings that do with --config, or a model folder with --model",
    )


def _name(model: str, settings: Settings) -> str:
    names = list(settings.models)
    if model in names:
        return model
    if len(names) == 1:
        return names[0]
    raise ConfigError(
        f"the settings have several models: {', '.join(names)}",
        code="model_ambiguous",
        param="--config",
        hint="give settings with one model, or name one of them with --model",
    )
