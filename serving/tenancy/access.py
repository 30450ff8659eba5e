"""API keys: issue, parse, authenticate. Pure; records live in `serving.adapters.key_store`.

A key reads `gal_<id>_<secret>`. The id finds the record and is safe to log; the secret proves
possession and is kept only as a salted digest.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from serving.core.types import ApiKeyId, Principal, TenantId
from serving.errors import AccessError, ConfigError

KEY_ID = re.compile(r"[a-z2-7]{12}")
"""Base32 alphabet: no underscore, so the first two underscores of a key are its separators."""

_KEY = re.compile(rf"gal_({KEY_ID.pattern})_([A-Za-z0-9_-]{{43}})")
_SALT_BYTES = 16
_SECRET_BYTES = 32
_MAX_NAME_CHARS = 64
# Stand-ins that give a malformed key and an unknown id the same hashing work as a known one.
_NO_SECRET = "-" * 43
_NO_SALT = bytes(_SALT_BYTES)
_NO_DIGEST = bytes(hashlib.sha256().digest_size)


class KeyState(StrEnum):
    """Whether a key opens the door; a revoked key stays `revoked` after it expires."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is stored of one API key. Times are aware UTC; `expires_at` None never expires. An
    operator's key may ask how its requests are routed."""

    id: ApiKeyId
    name: str
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    is_operator: bool = False

    def state(self, now: datetime) -> KeyState:
        """The state at `now`.

        Revocation ignores its time stamp: it must hold on machines whose clock runs behind.
        For the same reason a `created_at` in the future is no error.
        """
        if self.revoked_at is not None:
            return KeyState.REVOKED
        if self.expires_at is not None and now >= self.expires_at:
            return KeyState.EXPIRED
        return KeyState.ACTIVE


def issue_key(
    name: str,
    *,
    now: datetime,
    expires_at: datetime | None,
    random_bytes: Callable[[int], bytes],
    is_operator: bool = False,
) -> tuple[str, KeyRecord]:
    """A new key's text and the record to store; the text cannot be derived from the record.

    `random_bytes` must be a cryptographic source such as `secrets.token_bytes`.

    Raises:
        ConfigError: `key_name_invalid`, or `key_expiry_invalid` when it lies not after `now`.

    >>> from datetime import UTC
    >>> then = datetime(2030, 1, 1, tzinfo=UTC)
    >>> text, record = issue_key("ci", now=then, expires_at=None, random_bytes=bytes)
    >>> text
    'gal_aaaaaaaaaaaa_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'
    >>> authenticate(text, {record.id: record}.get, then)
    Principal(key_id='aaaaaaaaaaaa', tenant='ci', is_operator=False)
    """
    _check_name(name)
    if expires_at is not None and expires_at <= now:
        raise ConfigError("a key must expire in the future", code="key_expiry_invalid")
    key_id = ApiKeyId(base64.b32encode(random_bytes(8)).decode("ascii").lower()[:12])
    secret = base64.urlsafe_b64encode(random_bytes(_SECRET_BYTES)).decode("ascii").rstrip("=")
    salt = random_bytes(_SALT_BYTES)
    record = KeyRecord(
        id=key_id,
        name=name,
        salt=salt,
        digest=_digest(salt, secret),
        created_at=now,
        expires_at=expires_at,
        revoked_at=None,
        is_operator=is_operator,
    )
    return f"gal_{key_id}_{secret}", record


def parse_key(text: str) -> tuple[ApiKeyId, str]:
    """The id and the secret of a well-formed key.

    Raises:
        AccessError: `invalid_api_key`.
    """
    match = _KEY.fullmatch(text)
    if match is None:
        raise _invalid()
    return ApiKeyId(match[1]), match[2]


def authenticate(
    presented: str | None, lookup: Callable[[ApiKeyId], KeyRecord | None], now: datetime
) -> Principal:
    """The caller who holds the presented key.

    A malformed key, an unknown id and a wrong secret give the same error after the same hashing,
    so nobody can learn which ids exist. That a key is expired or revoked is told only to those
    who know its secret.

    Raises:
        AccessError: `missing_api_key`, `invalid_api_key`, `revoked_api_key`, `expired_api_key`.
    """
    if not presented:
        raise AccessError(
            "no API key: send it as 'Authorization: Bearer <key>' or 'x-api-key: <key>'",
            code="missing_api_key",
        )
    record = _matching_record(presented, lookup)
    if record is None:
        raise _invalid()
    state = record.state(now)
    if state is not KeyState.ACTIVE:
        raise AccessError(f"this API key is {state}; ask for a new one", code=f"{state}_api_key")
    return Principal(record.id, TenantId(record.name), record.is_operator)


def bearer_token(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The credential of a request, from `Authorization: Bearer` or `x-api-key`; None if absent.

    OpenAI clients send the first, Anthropic clients the second. Other authorization schemes and
    empty values count as absent; the same credential twice is one.

    Raises:
        AccessError: `ambiguous_credentials`, when two different ones are sent.

    Source: RFC 6750 section 2.1; RFC 9110 section 11.1 (the scheme is case-insensitive).
    """
    tokens = {token for name, value in headers if (token := _credential(name, value))}
    if len(tokens) > 1:
        raise AccessError(
            "the request carries two different API keys: send one of Authorization and x-api-key",
            code="ambiguous_credentials",
        )
    # Any byte is a latin-1 character, so garbage becomes a key that is refused later.
    return tokens.pop().decode("latin-1") if tokens else None


def _credential(name: bytes, value: bytes) -> bytes:
    header = name.lower()
    if header == b"x-api-key":
        return value.strip()
    scheme, _, token = value.strip().partition(b" ")
    is_bearer = header == b"authorization" and scheme.lower() == b"bearer"
    return token.strip() if is_bearer else b""


def _matching_record(
    presented: str, lookup: Callable[[ApiKeyId], KeyRecord | None]
) -> KeyRecord | None:
    record, secret = None, _NO_SECRET
    try:
        key_id, secret = parse_key(presented)
    except AccessError:
        pass  # hashed and refused below like any wrong key
    else:
        record = lookup(key_id)
    salt, digest = (record.salt, record.digest) if record else (_NO_SALT, _NO_DIGEST)
    is_match = hmac.compare_digest(_digest(salt, secret), digest)
    return record if is_match else None


def _digest(salt: bytes, secret: str) -> bytes:
    """SHA-256 over salt and secret: 32 bytes.

    One fast hash is right here. Slow hashes (argon2, bcrypt) make guessing human passwords
    expensive; a secret of 256 random bits cannot be guessed at any speed, while a slow hash would
    tax every request and hand attackers a way to exhaust the gateway.
    Source: NIST SP 800-63B (2017) section 5.1.2.2, which asks a slow hash only of look-up secrets
    under 112 bits; OWASP Password Storage Cheat Sheet, whose slow hashes are for passwords.
    """
    return hashlib.sha256(salt + secret.encode("ascii")).digest()


def _check_name(name: str) -> None:
    # `isprintable` also refuses invisible and direction-changing characters, which could make
    # one tenant's name look like another's.
    if not (1 <= len(name) <= _MAX_NAME_CHARS and name.isprintable() and name == name.strip()):
        raise ConfigError(
            f"a key's name is 1 to {_MAX_NAME_CHARS} printable characters "
            "without spaces around them",
            code="key_name_invalid",
            param="name",
        )


def _invalid() -> AccessError:
    return AccessError("the API key is not valid", code="invalid_api_key")
