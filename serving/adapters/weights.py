"""Model folders: where a model's files lie, and proof that they are the intended ones.

`resolve_weights` turns settings into a folder an engine can load. A SHA-256 manifest, if one is
set, must cover every weight file, because a file that is merely present can be loaded too.
"""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path, PurePosixPath

from serving.adapters.state_paths import StatePaths
from serving.errors import ConfigError
from serving.settings import DEMO_SOURCE, WeightSettings

MANIFEST_NAME = "SHA256SUMS"
"""The manifest that a prepared model folder brings along."""

Progress = Callable[[str, float | None, float | None], None]
"""Called with the step's name, what is done and the total, both `None` if unknown."""

WEIGHT_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf"})
_TOKENIZER_FILES = ("*.json", "*.jinja")
_ADAPTER_CONFIG_NAME = "adapter_config.json"
_CONFIG_NAMES = ("config.json", "params.json")
_DEMO_RECIPE = 3
"""Counts the ways in which the demo model was built; a new one must not find an old folder."""
_MANIFEST_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One file of a manifest. `name` is relative to the model folder, with forward slashes."""

    name: str
    sha256: str


def no_progress(_step: str, _done: float | None, _total: float | None) -> None:
    """Nobody is watching."""


def demo_folder(paths: StatePaths) -> Path:
    """Where the demo model lies once `galerne model prepare demo` has built it."""
    return paths.model_dir / f"{DEMO_SOURCE}-{_DEMO_RECIPE}"


def is_prepared(folder: Path) -> bool:
    """Whether `folder` was finished: it is renamed into place whole, manifest included."""
    return (folder / MANIFEST_NAME).is_file()


def resolve_weights(settings: WeightSettings, paths: StatePaths) -> Path:
    """The folder that holds the model's files, downloaded and verified as `settings` ask.

    Raises:
        ConfigError: the folder or repository is missing, out of reach, or not what the manifest
            lists (`demo_model_missing`, `weights_not_found`, `weights_gated`,
            `weights_token_refused`, `weights_unreachable`, `disk_full`, and the codes of
            `verify_manifest`).
    """
    if settings.source == DEMO_SOURCE:
        folder = _prepared_demo(paths)
    elif settings.is_local:
        folder = _local_folder(settings.source)
    else:
        folder = _download(settings)
    if settings.sha256_manifest is not None:
        verify_manifest(folder, settings.sha256_manifest.expanduser())
    return folder


def tokenizer_folder(settings: WeightSettings, paths: StatePaths) -> Path:
    """The folder that holds the model's tokenizer and chat template; weights need not be there.

    Raises:
        ConfigError: as `resolve_weights`, manifests aside.
    """
    if settings.source == DEMO_SOURCE:
        return _prepared_demo(paths)
    if settings.is_local:
        return _local_folder(settings.source)
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                settings.source, revision=settings.revision, allow_patterns=_TOKENIZER_FILES
            )
        )
    except Exception as error:  # the hub client also lets its HTTP library's errors through
        raise to_config_error(error, settings.source) from error


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


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as 64 lower-case hex digits, read in small pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(manifest: Path) -> tuple[ManifestEntry, ...]:
    """The entries of a file in `sha256sum` format.

    Raises:
        ConfigError: `weights_manifest_invalid` if it cannot be read, is empty, has a malformed
            line, or names a file outside the model folder.
    """
    try:
        lines = manifest.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _invalid_manifest("the SHA-256 manifest cannot be read") from error
    entries = tuple(_to_entry(line, number) for number, line in enumerate(lines, 1) if line.strip())
    if not entries:
        raise _invalid_manifest("the SHA-256 manifest lists no file")
    return entries


def verify_manifest(
    folder: Path, manifest: Path, progress: Progress = no_progress
) -> tuple[ManifestEntry, ...]:
    """Every listed file exists and matches, and every weight file in `folder` is listed.

    Returns the verified entries. Symbolic links are followed, as model caches are made of them.

    Raises:
        ConfigError: `weights_missing`, `weights_mismatch` or `weights_unlisted` with the relative
            file name, or `weights_manifest_invalid`.
    """
    entries = read_manifest(manifest)
    _require_listed(folder, {entry.name for entry in entries})
    total_bytes = sum(_size_bytes(folder, entry.name) for entry in entries)
    done_bytes = 0
    for entry in entries:
        progress(f"checking {entry.name}", done_bytes, total_bytes)
        _require_match(folder, entry)
        done_bytes += _size_bytes(folder, entry.name)
    progress("checked", done_bytes, total_bytes)
    return entries


def write_manifest(folder: Path) -> Path:
    """A manifest of every file in `folder`, sorted by name, now lies in it.

    `sha256sum --check SHA256SUMS` accepts it.
    """
    manifest = folder / MANIFEST_NAME
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != manifest)
    lines = [f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    manifest.write_text("".join(lines), encoding="utf-8")
    return manifest


def to_config_error(error: Exception, source: str) -> ConfigError:
    """The `ConfigError` for what huggingface_hub raised while it fetched `source`."""
    from huggingface_hub import errors as hub

    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return disk_full()
    if isinstance(error, hub.GatedRepoError):
        return ConfigError(
            f"{source} is gated: its owner has not given this account access",
            code="weights_gated",
            param="weights.source",
            hint="Accept the licence on the model's page, then set HF_TOKEN to a read token.",
        )
    if isinstance(error, hub.RepositoryNotFoundError | hub.RevisionNotFoundError):
        return ConfigError(
            f"{source} does not exist at this revision, or is private",
            code="weights_not_found",
            param="weights.source",
            hint="Check source and revision; private repositories need HF_TOKEN.",
        )
    if (
        isinstance(error, hub.HfHubHTTPError)
        and error.response.status_code == HTTPStatus.UNAUTHORIZED
    ):
        return ConfigError(
            f"the hub does not accept the token with which {source} was asked for",
            code="weights_token_refused",
            param="weights.source",
            hint="Set HF_TOKEN to a valid read token; public models need none.",
        )
    return ConfigError(
        f"{source} cannot be downloaded and is not in the local cache",
        code="weights_unreachable",
        param="weights.source",
        hint="Without a network, copy the model folder here and give its path as weights.source.",
    )


def disk_full() -> ConfigError:
    """The error for a disk with no room for a model."""
    return ConfigError(
        "the disk has no room for the model",
        code="disk_full",
        hint="Free some space, or set GALERNE_CACHE_DIR (HF_HOME for Hugging Face models) to a "
        "folder on a larger disk.",
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
    if not any((folder / name).is_file() for name in _CONFIG_NAMES):
        raise _not_a_model(f"the folder {source} holds neither config.json nor params.json")
    return folder


def _not_a_model(message: str) -> ConfigError:
    return ConfigError(
        message,
        code="weights_not_found",
        param="weights.source",
        hint="Give the folder that directly holds the model's configuration and weights.",
    )


def _download(settings: WeightSettings) -> Path:
    try:
        return _fetch(settings)
    except Exception as error:  # the hub client also lets its HTTP library's errors through
        raise to_config_error(error, settings.source) from error


def _fetch(settings: WeightSettings) -> Path:
    """The snapshot's folder; the hub is only asked for what the cache lacks.

    A download begins with a listing that retries for 23 s and waits for an answer without limit
    (`list_repo_tree` of huggingface_hub 2.4.0), so one question with a time limit comes first.
    """
    from huggingface_hub import HfApi, constants, errors, snapshot_download

    fetch = partial(snapshot_download, settings.source, revision=settings.revision)
    if not _is_complete(settings):
        timeout_s = constants.HF_HUB_ETAG_TIMEOUT
        try:
            HfApi().model_info(settings.source, revision=settings.revision, timeout=timeout_s)
        except Exception as refusal:
            try:
                return Path(fetch(local_files_only=True))
            except errors.LocalEntryNotFoundError:
                raise refusal from None
    return Path(fetch())


def _is_complete(settings: WeightSettings) -> bool:
    """Whether the cache holds every file that the hub listed; without that list, nobody knows."""
    from huggingface_hub import errors, get_cached_repo_tree, snapshot_download

    try:
        get_cached_repo_tree(settings.source, revision=settings.revision)
        snapshot_download(settings.source, revision=settings.revision, local_files_only=True)
    except (errors.CachedRepoTreeNotFoundError, errors.LocalEntryNotFoundError):
        return False
    return True


def _to_entry(line: str, number: int) -> ManifestEntry:
    match = _MANIFEST_LINE.fullmatch(line)
    if match is None:
        raise _invalid_manifest(f"line {number} of the SHA-256 manifest is malformed")
    name = PurePosixPath(match[2])
    if name.is_absolute() or ".." in name.parts:
        raise _invalid_manifest(f"line {number} of the SHA-256 manifest leaves the model folder")
    return ManifestEntry(name.as_posix(), match[1].lower())


def _invalid_manifest(message: str) -> ConfigError:
    return ConfigError(
        message,
        code="weights_manifest_invalid",
        param="weights.sha256_manifest",
        hint="Make one inside a trusted copy of the model: sha256sum * > SHA256SUMS",
    )


def _require_listed(folder: Path, listed: Collection[str]) -> None:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in WEIGHT_SUFFIXES and path.is_file() and name not in listed:
            raise _untrusted(
                f"the weight file {name} is not in the SHA-256 manifest",
                "weights_unlisted",
                "Remove the file, or list it if you trust it.",
            )


def _size_bytes(folder: Path, name: str) -> int:
    path = folder / name
    if not path.is_file():
        raise _untrusted(
            f"{name} is in the SHA-256 manifest but not in the model folder",
            "weights_missing",
            "Fetch the model again.",
        )
    return path.stat().st_size


def _require_match(folder: Path, entry: ManifestEntry) -> None:
    if file_sha256(folder / entry.name) != entry.sha256:
        raise _untrusted(
            f"{entry.name} differs from the SHA-256 manifest",
            "weights_mismatch",
            "The file is damaged or was replaced: fetch the model again from a source you trust.",
        )


def _untrusted(message: str, code: str, hint: str) -> ConfigError:
    return ConfigError(message, code=code, param="weights.sha256_manifest", hint=hint)
