"""What the planner fills into settings, told before anything starts."""

from __future__ import annotations

from collections.abc import Iterator

from serving.adapters.model_configs import read_folder
from serving.adapters.state_paths import StatePaths
from serving.adapters.weights import tokenizer_folder
from serving.errors import ConfigError
from serving.planner.engine_defaults import chosen_chunk
from serving.settings.model import ModelSettings
from serving.settings.platform import Settings
from serving.settings.weights import DEMO_SOURCE


def planned(settings: Settings, paths: StatePaths) -> Iterator[str]:
    """A line for each model for which something was chosen.

    Models whose files are not on this machine yet are left to their replicas' logs.
    """
    for model_id, model in settings.models.items():
        if remark := _chosen(model, paths):
            yield f"{model_id}: {remark}"


def _chosen(model: ModelSettings, paths: StatePaths) -> str | None:
    weights = model.weights
    if (
        weights is None
        or model.simulator
        or not (weights.source == DEMO_SOURCE or weights.is_local)
    ):
        return None
    try:
        folder = tokenizer_folder(weights, paths)
        config = read_folder(folder, config_format=model.engine.config_format)
    except ConfigError:
        return None
    return chosen_chunk(model, config)
