"""Models from object storage, in a folder of the cache that is named by its manifest's SHA-256.

`model-DIGEST` holds a whole model, `files-DIGEST` some files of one, for a gateway that needs the
tokenizer only. Only files that the manifest lists are fetched (`serving.adapters.object_download`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from serving.adapters.manifest import (
    CONFIG_NAMES,
    MANIFEST_NAME,
    ManifestEntry,
    manifest_bytes,
    parse_manifest,
    read_manifest,
    verify_entries,
    verify_manifest,
)
from serving.adapters.model_cache import Progress, no_progress
from serving.adapters.object_download import Listing, ensure_folder
from serving.adapters.object_store import ModelStore
from serving.errors import ConfigError
from serving.settings.weights import WeightSettings

MAX_MANIFEST_BYTES = 16 * 1024 * 1024

OpenStore = Callable[[str], ModelStore]


def open_store(source: str) -> ModelStore:
    """The storage that this process's environment has credentials for."""
    return ModelStore.open(source, os.environ)


def fetch_model(
    settings: WeightSettings,
    model_dir: Path,
    progress: Progress = no_progress,
    *,
    open_store: OpenStore = open_store,
) -> Path:
    """The folder with every file of the manifest, fetched if absent, and verified.

    Concurrent callers download once: the others wait. What an interrupted download had whole is
    not fetched again.

    Raises:
        ConfigError: no model there, no access, no space, or other bytes than listed
            (`weights_not_found`, `weights_credentials_refused`, `weights_unreachable`,
            `weights_endpoint_insecure`, `disk_full`, `model_cache_unusable`, and the codes of
            `verify_manifest`).
    """
    model = _PinnedModel.of(settings, open_store)
    folder = model_dir / f"model-{model.digest}"
    if not ensure_folder(folder, partial(model.plan, ("*",)), progress):
        with _naming(folder):
            verify_manifest(folder, folder / MANIFEST_NAME, progress, sha256=model.digest)
    return folder


def fetch_files(
    settings: WeightSettings,
    model_dir: Path,
    patterns: Sequence[str],
    *,
    open_store: OpenStore = open_store,
) -> Path:
    """A folder with at least the listed files that match a pattern, verified.

    Raises:
        ConfigError: as `fetch_model`.
    """
    model = _PinnedModel.of(settings, open_store)
    folder = model_dir / f"model-{model.digest}"
    if not folder.is_dir():
        selection = hashlib.sha256("\n".join((model.digest, *patterns)).encode()).hexdigest()
        folder = model_dir / f"files-{selection}"
        if ensure_folder(folder, partial(model.plan, patterns), no_progress):
            return folder
    with _naming(folder):
        entries = read_manifest(folder / MANIFEST_NAME, sha256=model.digest)
        verify_entries(folder, _matching(entries, patterns))
    return folder


@dataclass(frozen=True, slots=True)
class _PinnedModel:
    """A model that one manifest describes.

    Args:
        source: the prefix in object storage.
        digest: SHA-256 of the manifest.
        local: the manifest, if it lies on this machine and not beside the model's files.
        open_store: opens `source`.
    """

    source: str
    digest: str
    local: bytes | None
    open_store: OpenStore

    @classmethod
    def of(cls, settings: WeightSettings, open_store: OpenStore) -> _PinnedModel:
        manifest, digest = settings.sha256_manifest, settings.manifest_sha256
        local = None if manifest is None else manifest_bytes(manifest.expanduser())
        if local is not None:
            parse_manifest(local, sha256=digest)
            digest = hashlib.sha256(local).hexdigest()
        if digest is None:
            raise ValueError("WeightSettings lets no object storage through without a manifest")
        return cls(settings.source, digest, local, open_store)

    def plan(self, patterns: Sequence[str]) -> tuple[ModelStore, Listing]:
        """The listed files that match a pattern, and where they are."""
        store = self.open_store(self.source)
        content, entries = self._manifest(store)
        return store, Listing(content, _matching(entries, patterns))

    def _manifest(self, store: ModelStore) -> tuple[bytes, tuple[ManifestEntry, ...]]:
        content = self.local
        if content is None:
            size_bytes = store.size_bytes(MANIFEST_NAME)
            content = bytes(store.read(MANIFEST_NAME, 0, min(size_bytes, MAX_MANIFEST_BYTES)))
        entries = parse_manifest(content, sha256=self.digest)
        if not any(entry.name in CONFIG_NAMES for entry in entries):
            raise ConfigError(
                f"the SHA-256 manifest of {self.source} lists neither config.json nor params.json",
                code="weights_not_found",
                param="weights.source",
                hint="Only listed files are downloaded. Make the manifest inside the folder that "
                "directly holds the model's configuration and weights.",
            )
        return content, entries


def _matching(
    entries: Iterable[ManifestEntry], patterns: Sequence[str]
) -> tuple[ManifestEntry, ...]:
    """The entries that match, each once."""
    chosen = (entry for entry in entries if any(fnmatch(entry.name, each) for each in patterns))
    return tuple(dict.fromkeys(chosen))


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """A finished folder that no longer matches is named, so that it can be removed."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(
            f"the downloaded model has changed since: {error.message}",
            code=error.code,
            param=error.param,
            hint=f"Find out who writes there, then remove {folder} to have it fetched again.",
        ) from error
