"""What `keys.json` holds and what may be done to it, wherever it lies."""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from serving.core.types import ApiKeyId
from serving.errors import ConfigError
from serving.tenancy.access import KEY_ID, KeyRecord, KeyState, issue_key

_VERSION = 1
_DIGEST_BYTES = hashlib.sha256().digest_size


class _Version(msgspec.Struct):
    version: int


class _Content(msgspec.Struct):
    version: int
    keys: list[KeyRecord]


def utc_now() -> datetime:
    return datetime.now(UTC)


class KeyStore(Protocol):
    """Where the commands keep API keys. Parallel writers lose nothing."""

    def list(self) -> tuple[KeyRecord, ...]:
        """All records, oldest first, revoked and expired ones included."""

    def create(
        self, name: str, *, expires_at: datetime | None = None, is_operator: bool = False
    ) -> tuple[str, KeyRecord]:
        """The text of a new key, shown here only, and its stored record."""

    def revoke(self, id_or_name: str) -> KeyRecord:
        """The revoked record: the key of that id, else the newest of that name."""


class KeyRules:
    """Changes of key records. `random_bytes` must be a cryptographic source."""

    def __init__(
        self,
        *,
        now: Callable[[], datetime] = utc_now,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._now = now
        self._random_bytes = random_bytes

    def issue(
        self, name: str, *, expires_at: datetime | None, is_operator: bool
    ) -> tuple[str, KeyRecord]:
        """The text of a new key and the record to add.

        Raises:
            ConfigError: `key_name_invalid` or `key_expiry_invalid`.
        """
        return issue_key(
            name,
            now=self._now(),
            expires_at=expires_at,
            random_bytes=self._random_bytes,
            is_operator=is_operator,
        )

    def added(self, records: Sequence[KeyRecord], record: KeyRecord) -> tuple[KeyRecord, ...]:
        """The records with a new one.

        Raises:
            ConfigError: `key_name_taken`, by an active key.
        """
        now = record.created_at
        if any(r.name == record.name and r.state(now) is KeyState.ACTIVE for r in records):
            raise _name_taken(record.name)
        return (*records, record)

    def revoked(
        self, records: Sequence[KeyRecord], id_or_name: str
    ) -> tuple[tuple[KeyRecord, ...], KeyRecord]:
        """The records with those of that id or name revoked, and the newest of these.

        Raises:
            ConfigError: `key_not_found`.
        """
        ids = _select(records, id_or_name)
        after = tuple(_revoked(r, self._now()) if r.id in ids else r for r in records)
        return after, next(r for r in reversed(after) if r.id in ids)


def encode(records: Sequence[KeyRecord]) -> bytes:
    """The content of a key file with these records."""
    content = msgspec.json.encode(_Content(version=_VERSION, keys=list(records)))
    return msgspec.json.format(content, indent=2) + b"\n"


def decode(content: bytes) -> tuple[KeyRecord, ...]:
    """The records of a key file, in its order.

    Raises:
        ConfigError: `key_file_invalid`.
    """
    try:
        version = msgspec.json.decode(content, type=_Version).version
        if version != _VERSION:
            raise invalid_records(f"has version {version}; this Galerne knows version {_VERSION}")
        records = msgspec.json.decode(content, type=_Content).keys
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_records(f"is not valid: {error}") from error
    for index, record in enumerate(records):
        _check(record, index)
    if len({record.id for record in records}) < len(records):
        # One of the two could be the revoked one.
        raise invalid_records("lists an id twice")
    return tuple(records)


def _check(record: KeyRecord, index: int) -> None:
    times = (record.created_at, record.expires_at, record.revoked_at)
    if not KEY_ID.fullmatch(record.id):
        raise invalid_records(f"has a malformed id at keys[{index}]")
    if len(record.digest) != _DIGEST_BYTES:
        raise invalid_records(f"has a digest of the wrong length at keys[{index}]")
    if any(time is not None and time.tzinfo is None for time in times):
        raise invalid_records(f"has a time without a time zone at keys[{index}]")


def _select(records: Sequence[KeyRecord], id_or_name: str) -> set[ApiKeyId]:
    ids = {r.id for r in records if r.id == id_or_name}
    ids = ids or {r.id for r in records if r.name == id_or_name}
    if not ids:
        raise ConfigError(
            "no API key has that id or name",
            code="key_not_found",
            hint="galerne keys list shows them",
        )
    return ids


def _revoked(record: KeyRecord, now: datetime) -> KeyRecord:
    return dataclasses.replace(record, revoked_at=record.revoked_at or now)


def _name_taken(name: str) -> ConfigError:
    return ConfigError(
        f"an active API key is already named {name!r}",
        code="key_name_taken",
        param="name",
        hint="choose another name, or revoke that key first",
    )


def invalid_records(problem: str) -> ConfigError:
    """The error for a key file that is not one."""
    return ConfigError(
        f"the API key file {problem}",
        code="key_file_invalid",
        hint="restore keys.json in the state folder from a backup, or move it away and create "
        "new keys",
    )
