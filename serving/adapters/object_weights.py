"""Models from object storage, in a folder of the cache that is named by its manifest's SHA-256.

    model-DIGEST/              verified and whole, or absent
    .model-DIGEST.partial/     whole files of a download that is not finished
    .model-DIGEST.half-TOKEN   the file that is being written; worthless once its writer is gone
    .model-DIGEST.lock         held by the one process of this machine that downloads
    files-DIGEST/              the same for some files, for a gateway that needs the tokenizer only

Only files that the manifest lists are fetched. Each is hashed as it arrives and moves into the
partial folder when it matches, so a crash leaves nothing that could be taken for a model.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from itertools import islice
from pathlib import Path

from serving.adapters.manifest import (
    CONFIG_NAMES,
    MANIFEST_NAME,
    ManifestEntry,
    manifest_bytes,
    matches,
    mismatch,
    parse_manifest,
    read_manifest,
    require_listed,
    verify_entries,
    verify_manifest,
)
from serving.adapters.model_cache import (
    Progress,
    exclusive,
    no_progress,
    require_space,
    sync_to_disk,
    to_cache_error,
)
from serving.adapters.object_store import ModelStore
from serving.errors import ConfigError
from serving.settings import WeightSettings

PIECE_BYTES = 16 * 1024 * 1024
"""Asked for at once. Each piece has its own retries; of a larger one more would be lost."""
NUM_PARALLEL = 8
"""Pieces on their way at once, 128 MiB of memory: one connection to S3 brings about 85 MB/s.
Source: Amazon S3 user guide, "Performance design patterns", byte-range fetches of 8 to 16 MB."""
MAX_MANIFEST_BYTES = 16 * 1024 * 1024

OpenStore = Callable[[str], ModelStore]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the files of one download lie."""

    folder: Path
    token: str
    """Of this writer alone: where a shared volume does not pass locks on, two of them must not
    write into one file."""

    @classmethod
    def of(cls, folder: Path) -> _Place:
        return cls(folder, secrets.token_hex(4))

    @property
    def partial(self) -> Path:
        return self._hidden("partial")

    @property
    def half(self) -> Path:
        return self._hidden(f"half-{self.token}")

    @property
    def lock(self) -> Path:
        return self._hidden("lock")

    def remove_halves(self) -> None:
        """Those of writers that are gone."""
        for path in self.folder.parent.glob(self._hidden("half-*").name):
            path.unlink(missing_ok=True)

    def _hidden(self, kind: str) -> Path:
        return self.folder.with_name(f".{self.folder.name}.{kind}")


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
    if not _ensure(folder, progress, partial(_download, model)):
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
        if _ensure(folder, no_progress, partial(_download, model, patterns=patterns)):
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

    def manifest(self, store: ModelStore) -> tuple[bytes, tuple[ManifestEntry, ...]]:
        """The manifest, byte for byte, and what it lists."""
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


def _ensure(folder: Path, progress: Progress, download: Callable[[_Place, Progress], None]) -> bool:
    """Whether `folder`, which is there now, had to be downloaded."""
    if folder.is_dir():
        return False
    place = _Place.of(folder)
    waiting = partial(progress, "waiting for another download", None, None)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(place.lock, waiting):
            if folder.is_dir():
                return False
            download(place, progress)
    except OSError as error:
        raise to_cache_error(error) from error
    return True


def _download(
    model: _PinnedModel, place: _Place, progress: Progress, *, patterns: Sequence[str] = ("*",)
) -> None:
    """The folder of `place` appears, with the manifest and all listed files that match."""
    place.partial.mkdir(exist_ok=True)
    place.remove_halves()
    store = model.open_store(model.source)
    content, listed = model.manifest(store)
    entries = _matching(listed, patterns)
    sizes = _sizes_bytes(store, entries)
    tell = _Tally(progress, sum(sizes.values()))
    missing = [entry for entry in entries if not _is_whole(place, entry, sizes[entry], tell)]
    require_space(place.folder.parent, sum(sizes[entry] for entry in missing))
    pieces = [piece for entry in missing for piece in _pieces(entry, sizes[entry])]
    with closing(_arriving(store, pieces)) as arriving:
        for entry in missing:
            num_pieces = len(_pieces(entry, sizes[entry]))
            _write(place, entry, islice(arriving, num_pieces), tell)
    (place.partial / MANIFEST_NAME).write_bytes(content)
    require_listed(place.partial, {entry.name for entry in entries})
    _sync_tree(place.partial)
    place.partial.rename(place.folder)
    sync_to_disk(place.folder.parent)
    tell.step("ready")


class _Tally:
    """Progress in bytes of all files together."""

    def __init__(self, progress: Progress, total_bytes: int) -> None:
        self._progress = progress
        self._total_bytes = total_bytes
        self._done_bytes = 0

    def step(self, step: str, num_bytes: int = 0) -> None:
        """`step` is under way, and so many bytes more are done."""
        self._done_bytes += num_bytes
        self._progress(step, self._done_bytes, self._total_bytes)


def _is_whole(place: _Place, entry: ManifestEntry, size_bytes: int, tell: _Tally) -> bool:
    """Whether an earlier download has left the file; what a power cut may have spoilt is read."""
    path = place.partial / entry.name
    if not path.exists():
        return False
    tell.step(f"checking {entry.name}")
    if not matches(place.partial, entry):
        path.unlink()
        return False
    tell.step(f"checking {entry.name}", size_bytes)
    return True


def _write(place: _Place, entry: ManifestEntry, pieces: Iterable[memoryview], tell: _Tally) -> None:
    """The file lies in the partial folder if its bytes are the listed ones, else nowhere."""
    digest = hashlib.sha256()
    step = f"fetching {entry.name}"
    tell.step(step)
    try:
        with place.half.open("wb") as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
                tell.step(step, len(piece))
        if digest.hexdigest() != entry.sha256:
            raise mismatch(entry)
        sync_to_disk(place.half)
        path = place.partial / entry.name
        path.parent.mkdir(parents=True, exist_ok=True)
        place.half.rename(path)
    finally:
        place.half.unlink(missing_ok=True)


_Piece = tuple[str, int, int]
"""Name of an object, first byte, byte after the last."""


def _pieces(entry: ManifestEntry, size_bytes: int) -> list[_Piece]:
    """What to ask for, one after the other, to have the whole file.

    >>> _pieces(ManifestEntry("a.bin", "…"), PIECE_BYTES + 1)
    [('a.bin', 0, 16777216), ('a.bin', 16777216, 16777217)]
    """
    starts = range(0, size_bytes, PIECE_BYTES)
    return [(entry.name, start, min(start + PIECE_BYTES, size_bytes)) for start in starts]


def _arriving(store: ModelStore, pieces: Iterable[_Piece]) -> Generator[memoryview, None, None]:
    """The pieces in order, while the next ones are already on their way."""
    pool = ThreadPoolExecutor(NUM_PARALLEL, thread_name_prefix="weights")
    under_way = deque[Future[memoryview]]()
    try:
        for piece in pieces:
            if len(under_way) == NUM_PARALLEL:
                yield under_way.popleft().result()
            under_way.append(pool.submit(store.read, *piece))
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _sizes_bytes(store: ModelStore, entries: Sequence[ManifestEntry]) -> dict[ManifestEntry, int]:
    with ThreadPoolExecutor(NUM_PARALLEL, thread_name_prefix="weights") as pool:
        sizes = pool.map(store.size_bytes, (entry.name for entry in entries))
        return dict(zip(entries, sizes, strict=True))


def _matching(
    entries: Iterable[ManifestEntry], patterns: Sequence[str]
) -> tuple[ManifestEntry, ...]:
    """The entries that match, each once."""
    chosen = (entry for entry in entries if any(fnmatch(entry.name, each) for each in patterns))
    return tuple(dict.fromkeys(chosen))


def _sync_tree(folder: Path) -> None:
    sync_to_disk(folder / MANIFEST_NAME)
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            sync_to_disk(path)


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
