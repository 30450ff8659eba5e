"""Model folders: where a model's files lie, whatever their source.

`resolve_weights` turns settings into a folder an engine can load. A SHA-256 manifest, if one is
set, must cover every weight file (`serving.adapters.manifest`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from serving.adapters import hub_weights, object_weights
from serving.adapters.manifest import CONFIG_NAMES, MANIFEST_NAME, verify_manifest
from serving.adapters.model_cache import Progress, no_progress
from serving.adapters.state_paths import StatePaths
from serving.errors import ConfigError
from serving.settings.weights import DEMO_SOURCE, WeightSettings

_TOKENIZER_FILES = ("*.json", "*.jinja")
_ADAPTER_CONFIG_NAME = "adapter_config.json"
_DEMO_RECIPE = 3
"""Counts the ways in which the demo model was built; a new one must not find an old folder."""


def demo_folder(paths: StatePaths) -> Path:
    """Where the demo model lies once `galerne model prepare demo` has built it."""
    return paths.model_dir / f"{DEMO_SOURCE}-{_DEMO_RECIPE}"


def is_prepared(folder: Path) -> bool:
    """Whether `folder` was finished: it is renamed into place whole, manifest included."""
    return (folder / MANIFEST_NAME).is_file()


def resolve_weights(
    settings: WeightSettings, paths: StatePaths, progress: Progress = no_progress
) -> Path:
    """The folder that holds the model's files, downloaded and verified as `settings` ask.

    Raises:
        ConfigError: the folder, repository or bucket is missing, out of reach, or not what the
            manifest lists (`demo_model_missing`, and the codes of `hub_weights.fetch_snapshot`,
            `object_weights.fetch_model` and `verify_manifest`).
    """
    if settings.is_object_storage:
        return object_weights.fetch_model(settings, paths.model_dir, progress)
    if settings.source == DEMO_SOURCE:
        folder = _prepared_demo(paths)
    elif settings.is_local:
        folder = _local_folder(settings.source)
    else:
        progress(f"downloading {settings.source}", None, None)
        folder = hub_weights.fetch_snapshot(settings)
    if settings.sha256_manifest is not None or settings.manifest_sha256 is not None:
        manifest = settings.sha256_manifest or folder / MANIFEST_NAME
        verify_manifest(folder, manifest.expanduser(), progress, sha256=settings.manifest_sha256)
    return folder


def tokenizer_folder(settings: WeightSettings, paths: StatePaths) -> Path:
    """The folder that holds the model's tokenizer and chat template; weights need not be there.

    Raises:
        ConfigError: as `resolve_weights`; manifests count for object storage only.
    """
    if settings.source == DEMO_SOURCE:
        return _prepared_demo(paths)
    if settings.is_local:
        return _local_folder(settings.source)
    if settings.is_object_storage:
        return object_weights.fetch_files(settings, paths.model_dir, _TOKENIZER_FILES)
    return hub_weights.fetch_files(settings, _TOKENIZER_FILES)


def check_adapters(adapters: Mapping[str, Path]) -> None:
    """Return if each LoRA adapter is a folder in PEFT's format.

    Raises:
        ConfigError: `adapter_not_found`, with the adapter's name in `param`.
    """
    for name, path in adapters.items():
        folder = path.expanduser()
        if not (folder / _ADAPTER_CONFIG_NAME).is_file():
            problem = f"holds no {_ADAPTER_CONFIG_NAME}" if folder.is_dir() else "does not exist"
            raise ConfigError(
                f"the folder {path} of LoRA adapter {name!r} {problem}",
                code="adapter_not_found",
                param=f"adapters.{name}",
                hint="Give the folder that directly holds adapter_config.json and its weights.",
            )


def _prepared_demo(paths: StatePaths) -> Path:
    folder = demo_folder(paths)
    if not is_prepared(folder):
        raise ConfigError(
            "the demo model is not prepared on this machine",
            code="demo_model_missing",
            param="weights.source",
            hint="Run: galerne model prepare demo",
        )
    return folder


def _local_folder(source: str) -> Path:
    folder = Path(source).expanduser().absolute()
    if not folder.is_dir():
        raise _not_a_model(f"the folder {source} does not exist")
    if not any((folder / name).is_file() for name in CONFIG_NAMES):
        raise _not_a_model(f"the folder {source} holds neither config.json nor params.json")
    return folder


def _not_a_model(message: str) -> ConfigError:
    return ConfigError(
        message,
        code="weights_not_found",
        param="weights.source",
        hint="Give the folder that directly holds the model's configuration and weights.",
    )
