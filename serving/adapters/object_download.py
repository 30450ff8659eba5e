"""Downloads of listed files into a folder that is whole or absent.

    FOLDER                  verified and whole, or absent
    .FOLDER.partial/        whole files of a download that is not finished
    .FOLDER.half-TOKEN      the file that is being written; worthless once its writer is gone
    .FOLDER.lock            held by the one process of this machine that downloads

Each file is hashed as it arrives and moves into the partial folder when it matches, so a crash
leaves nothing that could be taken for a model.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from serving.adapters.manifest import (
    MANIFEST_NAME,
    ManifestEntry,
    matches,
    mismatch,
    require_listed,
)
from serving.adapters.model_cache import (
    Progress,
    exclusive,
    require_space,
    sync_to_disk,
    to_cache_error,
)
from serving.adapters.object_store import ModelStore

PIECE_BYTES = 16 * 1024 * 1024
"""Asked for at once. Each piece has its own retries; of a larger one more would be lost."""
NUM_PARALLEL = 8
"""Pieces on their way at once, 128 MiB of memory: one connection to S3 brings about 85 MB/s.
Source: Amazon S3 user guide, "Performance design patterns", byte-range fetches of 8 to 16 MB."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a folder is to hold.

    Args:
        manifest: its manifest, byte for byte, which may list more.
        entries: the files, each once.
    """

    manifest: bytes
    entries: Sequence[ManifestEntry]


Plan = Callable[[], tuple[ModelStore, Listing]]
"""Finds out what is to be downloaded; may ask the network."""


def ensure_folder(folder: Path, plan: Plan, progress: Progress) -> bool:
    """Whether `folder`, which is there now, had to be downloaded, and so is known to match.

    Concurrent callers download once: the others wait. What an interrupted download had whole is
    not fetched again.

    Raises:
        ConfigError: what `plan` and `ModelStore` raise, `weights_mismatch`, `weights_unlisted`,
            `disk_full`, `model_cache_unusable`.
    """
    if folder.is_dir():
        return False
    place = _Place.of(folder)
    waiting = partial(progress, "waiting for another download", None, None)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(place.lock, waiting):
            if folder.is_dir():
                return False
            _download(place, plan, progress)
    except OSError as error:
        raise to_cache_error(error) from error
    return True


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


def _download(place: _Place, plan: Plan, progress: Progress) -> None:
    """The folder of `place` appears, with the manifest and all files of the plan."""
    place.partial.mkdir(exist_ok=True)
    place.remove_halves()
    store, listing = plan()
    entries = listing.entries
    sizes = _sizes_bytes(store, entries)
    tell = _Tally(progress, sum(sizes.values()))
    missing = [entry for entry in entries if not _is_whole(place, entry, sizes[entry], tell)]
    require_space(place.folder.parent, sum(sizes[entry] for entry in missing))
    pieces = [piece for entry in missing for piece in _pieces(entry, sizes[entry])]
    with closing(_arriving(store, pieces)) as arriving:
        for entry in missing:
            num_pieces = len(_pieces(entry, sizes[entry]))
            _write(place, entry, islice(arriving, num_pieces), tell)
    (place.partial / MANIFEST_NAME).write_bytes(listing.manifest)
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


def _sync_tree(folder: Path) -> None:
    sync_to_disk(folder / MANIFEST_NAME)
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            sync_to_disk(path)
