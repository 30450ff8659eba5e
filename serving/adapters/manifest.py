"""SHA-256 manifests: proof that a model folder holds the intended files and no other weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from serving.adapters.model_cache import Progress, no_progress
from serving.errors import ConfigError

MANIFEST_NAME = "SHA256SUMS"
"""The manifest that a model folder brings along."""

WEIGHT_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf"})
CONFIG_NAMES = ("config.json", "params.json")
"""A model folder holds one of them."""
_MANIFEST_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One file of a manifest. `name` is relative to the model folder, with forward slashes."""

    name: str
    sha256: str


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as 64 lower-case hex digits, read in small pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(manifest: Path, *, sha256: str | None = None) -> tuple[ManifestEntry, ...]:
    """The entries of a file in `sha256sum` format.

    Args:
        manifest: the file.
        sha256: what the file itself must have; `None` takes it as it is.

    Raises:
        ConfigError: `weights_manifest_invalid` if it cannot be read, is empty, has a malformed
            line, or names a file outside the model folder; `weights_manifest_mismatch`.
    """
    return parse_manifest(manifest_bytes(manifest), sha256=sha256)


def manifest_bytes(manifest: Path) -> bytes:
    """The file's content.

    Raises:
        ConfigError: `weights_manifest_invalid`.
    """
    try:
        return manifest.read_bytes()
    except OSError as error:
        raise _invalid_manifest("the SHA-256 manifest cannot be read") from error


def parse_manifest(content: bytes, *, sha256: str | None = None) -> tuple[ManifestEntry, ...]:
    """The entries of a manifest's bytes, which are looked at only if they are the intended ones.

    Raises:
        ConfigError: as `read_manifest`.
    """
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ConfigError(
            "the SHA-256 manifest is not the one that weights.manifest_sha256 names",
            code="weights_manifest_mismatch",
            param="weights.manifest_sha256",
            hint="If the model was changed on purpose, check its new manifest and set what "
            "`sha256sum SHA256SUMS` prints; else fetch the manifest from a source you trust.",
        )
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise _invalid_manifest("the SHA-256 manifest cannot be read") from error
    entries = tuple(_to_entry(line, number) for number, line in enumerate(lines, 1) if line.strip())
    if not entries:
        raise _invalid_manifest("the SHA-256 manifest lists no file")
    return entries


def verify_manifest(
    folder: Path, manifest: Path, progress: Progress = no_progress, *, sha256: str | None = None
) -> tuple[ManifestEntry, ...]:
    """Every listed file exists and matches, and every weight file in `folder` is listed.

    Returns the verified entries. Symbolic links are followed, as model caches are made of them.

    Raises:
        ConfigError: `weights_missing`, `weights_mismatch` or `weights_unlisted` with the relative
            file name, or the codes of `read_manifest`.
    """
    entries = read_manifest(manifest, sha256=sha256)
    require_listed(folder, {entry.name for entry in entries})
    verify_entries(folder, entries, progress)
    return entries


def verify_entries(
    folder: Path, entries: Iterable[ManifestEntry], progress: Progress = no_progress
) -> None:
    """Every listed file exists and matches.

    Raises:
        ConfigError: `weights_missing`, `weights_mismatch`.
    """
    sizes = {entry: _size_bytes(folder, entry.name) for entry in entries}
    total_bytes = sum(sizes.values())
    done_bytes = 0
    for entry, num_bytes in sizes.items():
        progress(f"checking {entry.name}", done_bytes, total_bytes)
        if not matches(folder, entry):
            raise mismatch(entry)
        done_bytes += num_bytes
    progress("checked", done_bytes, total_bytes)


def matches(folder: Path, entry: ManifestEntry) -> bool:
    """Whether the file is there with the listed content."""
    path = folder / entry.name
    try:
        return path.is_file() and file_sha256(path) == entry.sha256
    except PermissionError as error:
        raise _untrusted(
            f"{entry.name} cannot be read",
            "weights_unreadable",
            "Let the user that runs Galerne read the model folder.",
        ) from error


def require_listed(folder: Path, listed: Collection[str]) -> None:
    """No weight file lies in the folder that could be loaded without having been checked.

    Raises:
        ConfigError: `weights_unlisted`.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in WEIGHT_SUFFIXES and path.is_file() and name not in listed:
            raise _untrusted(
                f"the weight file {name} is not in the SHA-256 manifest",
                "weights_unlisted",
                "Remove the file, or list it if you trust it.",
            )


def mismatch(entry: ManifestEntry) -> ConfigError:
    """The error for a file with another content than the listed one."""
    return _untrusted(
        f"{entry.name} differs from the SHA-256 manifest",
        "weights_mismatch",
        "The file is damaged or was replaced: fetch the model again from a source you trust.",
    )


def write_manifest(folder: Path) -> Path:
    """A manifest of every file in `folder`, sorted by name, now lies in it.

    `sha256sum --check SHA256SUMS` accepts it.
    """
    manifest = folder / MANIFEST_NAME
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != manifest)
    lines = [f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    manifest.write_text("".join(lines), encoding="utf-8")
    return manifest


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


def _size_bytes(folder: Path, name: str) -> int:
    path = folder / name
    if not path.is_file():
        raise _untrusted(
            f"{name} is in the SHA-256 manifest but not in the model folder",
            "weights_missing",
            "Fetch the model again.",
        )
    return path.stat().st_size


def _untrusted(message: str, code: str, hint: str) -> ConfigError:
    return ConfigError(message, code=code, param="weights.sha256_manifest", hint=hint)
