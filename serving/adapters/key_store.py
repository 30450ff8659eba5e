"""API key records in a JSON file: `KeyFile` for the command line, `KeyCache` for gateways.

What such a file holds, and what may be done to it, is in `key_records.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from pathlib import Path

import structlog

from serving.adapters.key_records import KeyRules, decode, encode, invalid_records, utc_now
from serving.adapters.secrets_file import make_private_folder, replace_private_file
from serving.core.types import ApiKeyId
from serving.errors import ConfigError, Overloaded
from serving.tenancy.access import KeyRecord

FAIL_CLOSED_S = 5.0
"""How long gateways trust what they last read. A revocation cannot be seen in a file that cannot
be read, so this is the promise "revoked keys stop working within 5 s" itself: longer would favour
availability over it. A replaced file is never absent or partial, so a healthy store never gets
here."""

_log = structlog.get_logger(__name__)

_Signature = tuple[int, ...]


class KeyFile:
    """The key records of one installation. Parallel writers lose nothing; reading needs no lock.

    A file that does not exist yet has no keys.
    """

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], datetime] = utc_now,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._path = path
        self._rules = KeyRules(now=now, random_bytes=random_bytes)

    def list(self) -> tuple[KeyRecord, ...]:
        """All records, oldest first, revoked and expired ones included.

        Raises:
            ConfigError: `key_file_invalid`.
        """
        try:
            return decode(self._path.read_bytes())
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise invalid_records(f"cannot be read: {error.strerror}") from error

    def create(
        self, name: str, *, expires_at: datetime | None = None, is_operator: bool = False
    ) -> tuple[str, KeyRecord]:
        """The text of a new key, shown here only, and its stored record.

        Raises:
            ConfigError: `key_name_taken`, `key_name_invalid`, `key_expiry_invalid`,
                `key_file_invalid` or `key_file_unwritable`.
        """
        key, record = self._rules.issue(name, expires_at=expires_at, is_operator=is_operator)
        with self._locked() as file:
            replace_private_file(file, encode(self._rules.added(self.list(), record)))
        return key, record

    def revoke(self, id_or_name: str) -> KeyRecord:
        """The revoked record: the key of that id, else the newest of that name.

        A name revokes every key that has it, so that none of them works afterwards. Revoking
        again changes nothing and keeps the first time stamp.

        Raises:
            ConfigError: `key_not_found`, `key_file_invalid` or `key_file_unwritable`.
        """
        with self._locked() as file:
            records, revoked = self._rules.revoked(self.list(), id_or_name)
            replace_private_file(file, encode(records))
        return revoked

    @contextlib.contextmanager
    def _locked(self) -> Iterator[Path]:
        """Exclusive right to replace the real file, which is yielded; symbolic links survive."""
        try:
            file = self._path.resolve()
            make_private_folder(file.parent)
            # The key file itself is replaced, so its lock would be one on a forgotten inode.
            lock = file.with_name(f"{file.name}.lock")
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield file
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _unwritable(self._path, error) from error


class KeyCache:
    """Key records in memory, at most `refresh_s` behind the file while `run` runs.

    Read errors keep the last good records for `fail_closed_s`; after that every key is refused.
    A file that was never there is an installation without keys; one that vanished is an error.

    Args:
        path: the key file; symbolic links are followed, so a swapped Kubernetes Secret is seen.
        refresh_s: seconds between looks at the file.
        clock: monotonic seconds.
        fail_closed_s: see `FAIL_CLOSED_S`.
        sleep: awaited between looks.
    """

    def __init__(
        self,
        path: Path,
        *,
        refresh_s: float,
        clock: Callable[[], float],
        fail_closed_s: float = FAIL_CLOSED_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._path = path
        self._refresh_s = refresh_s
        self._clock = clock
        self._fail_closed_s = fail_closed_s
        self._sleep = sleep
        self._records: dict[ApiKeyId, KeyRecord] = {}
        self._signature: _Signature | None = None
        self._tried_at: float | None = None
        self._current_at: float | None = None
        self._fault: str | None = None
        self.num_failures = 0
        """Looks at the file that failed, since the start."""

    def lookup(self, key_id: ApiKeyId) -> KeyRecord | None:
        """The record of that id, revoked and expired ones included.

        Raises:
            Overloaded: `key_store_unavailable`.
        """
        # A stalled event loop delays `run` too: look before refusing, but not on every request.
        if self._is_older(self._current_at, self._fail_closed_s) and self._is_older(
            self._tried_at, self._refresh_s
        ):
            self.refresh()
        if self._is_older(self._current_at, self._fail_closed_s):
            raise Overloaded(
                "API keys cannot be checked at the moment",
                code="key_store_unavailable",
                retryable=True,
                retry_after_s=self._fail_closed_s,
            )
        if key_id not in self._records:
            # A key made a moment ago must work at once; an unknown one costs one stat().
            self.refresh()
        return self._records.get(key_id)

    def refresh(self) -> bool:
        """Whether the records now match the file, which is read only if it changed."""
        self._tried_at = self._clock()
        try:
            self._read_if_changed()
        except Exception as error:  # whatever is in the file, gateways must keep serving
            self._note_failure(error)
            return False
        # The time before the look: a change during it is not in the records.
        self._current_at = self._tried_at
        if self._fault is not None:
            _log.info("key_store_recovered", num_keys=len(self._records))
        self._fault = None
        return True

    async def run(self) -> None:
        """Refresh every `refresh_s` until cancelled."""
        while True:
            self.refresh()
            await self._sleep(self._refresh_s)

    def _read_if_changed(self) -> None:
        try:
            if _signature(self._path.stat()) == self._signature:
                return
            with self._path.open("rb") as file:
                # The signature of the very file that is read, not of one swapped in since.
                signature = _signature(os.fstat(file.fileno()))
                records = {record.id: record for record in decode(file.read())}
        except FileNotFoundError:
            if self._signature is not None:
                raise
            return
        self._records, self._signature = records, signature

    def _note_failure(self, error: Exception) -> None:
        self.num_failures += 1
        fault = error.message if isinstance(error, ConfigError) else type(error).__name__
        if fault != self._fault:
            _log.warning(
                "key_store_unreadable", fault=fault, refuses_all_after_s=self._fail_closed_s
            )
        self._fault = fault

    def _is_older(self, since: float | None, limit_s: float) -> bool:
        return since is None or self._clock() - since > limit_s


def _signature(stat: os.stat_result) -> _Signature:
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"the API key file cannot be written: {error.strerror}",
        code="key_file_unwritable",
        hint=f"make {path.parent} writable for this user, with room on its disk; if it is a "
        "mounted Kubernetes Secret, change keys where the Secret is made",
    )
