"""Files that only their owner may read: tokens shared by the processes of one installation."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from serving.errors import ConfigError

_SECRET_BYTES = 32
_OPEN_TO_OTHERS = 0o077
_OPEN_BEYOND_GROUP = 0o037
_ROOM_BYTES = 256 * 1024
"""What a start writes at least: tokens, its record and a beginning of each log."""


def read_secret(path: Path) -> str:
    """The secret in the file, without the white space around it.

    Raises:
        ConfigError: `secret_file_missing`, `secret_file_unreadable`, `secret_file_exposed` (others
            have access, or the group of a file that is not root's) or `secret_file_empty`.
    """
    try:
        with path.open("rb") as file:
            # The open file is asked, not its name, so that no swap comes between check and read.
            found = os.fstat(file.fileno())
            secret = file.read().decode("ascii").strip()
    except FileNotFoundError as error:
        raise _fault("is missing", "missing", hint=f"expected {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise _fault("cannot be read", "unreadable", hint=f"{path}: {_reason(error)}") from error
    # A mounted Secret belongs to root, and to a group that only this pod's processes have.
    is_mounted = found.st_uid == 0 != os.geteuid()
    if found.st_mode & (_OPEN_BEYOND_GROUP if is_mounted else _OPEN_TO_OTHERS):
        raise _fault("is open to other users", "exposed", hint=f"run: chmod 600 '{path}'")
    if not secret:
        raise _fault("is empty", "empty", hint=f"delete {path}; a new one is then created")
    return secret


def ensure_secret(path: Path) -> str:
    """The secret in the file, which is created with mode 0600 if absent: 32 random bytes as text.

    Processes that race to create it all return the same secret.

    Raises:
        ConfigError: as `read_secret`, or `secret_file_unwritable`.
    """
    try:
        if not path.exists():
            _create(path)
    except OSError as error:
        hint = f"{path}: {_reason(error)}"
        raise _fault("cannot be created", "unwritable", hint=hint) from error
    return read_secret(path)


def replace_private_file(path: Path, content: bytes) -> None:
    """The file holds `content` with mode 0600, durably; readers see all of the old or the new.

    Raises:
        OSError: nothing was changed.
    """
    with _private_temp(path, content) as temp:
        temp.replace(path)
    _sync_folder(path.parent)


def make_private_folder(path: Path) -> None:
    """The folder exists; if it had to be made, with mode 0700. An existing one is left as it is."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def check_room(folder: Path) -> None:
    """Return if files can be written in the folder, which is made if absent.

    Raises:
        ConfigError: `state_dir_unwritable`.
    """
    try:
        make_private_folder(folder)
        with _private_temp(folder / "room", bytes(_ROOM_BYTES)):
            pass
    except OSError as error:
        raise ConfigError(
            f"the state folder cannot be written: {_reason(error)}",
            code="state_dir_unwritable",
            hint=f"make room in {folder}, or set GALERNE_STATE_DIR to another folder",
        ) from error


def _create(path: Path) -> None:
    make_private_folder(path.parent)
    token = secrets.token_urlsafe(_SECRET_BYTES).encode("ascii")
    with _private_temp(path, token) as temp, contextlib.suppress(FileExistsError):
        # Unlike a rename, a link never replaces: whoever is first wins, and the name never
        # refers to a half-written file.
        path.hardlink_to(temp)
    _sync_folder(path.parent)


@contextlib.contextmanager
def _private_temp(path: Path, content: bytes) -> Iterator[Path]:
    """A synced file beside `path`, gone at the end unless it was renamed."""
    temp = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        yield temp
    finally:
        temp.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: OSError | UnicodeDecodeError) -> str:
    # A decoding error's own text would quote the secret.
    return error.strerror or "failed" if isinstance(error, OSError) else "not ASCII text"


def _fault(problem: str, code: str, *, hint: str) -> ConfigError:
    return ConfigError(f"a secret file {problem}", code=f"secret_file_{code}", hint=hint)
