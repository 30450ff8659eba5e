"""Keeping tenants apart in the engines' prefix caches.

Whoever can tell a cached prompt from a new one by its TTFT can find out, guess by guess, what
others have asked (CVE-2025-46570). Engines take a salt into the names of a prompt's blocks; it is
derived from who asks, so that a guess only ever hits what the guesser may know.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping
from hashlib import sha256

from serving.core.types import TenantId
from serving.errors import RequestError

_MAX_CLIENT_SALT_CHARS = 1024
_SALT_HEX_DIGITS = 32


class CacheSalts:
    """The salt of each request.

    Args:
        secret: nobody who lacks it can make another's salt.
        groups: tenants that share cached prompts, by the name of their group. A tenant of no group
            shares with nobody.

    >>> salts = CacheSalts(b"secret", {"team": ["ann", "bob"]})
    >>> salts.of(TenantId("ann"), None) == salts.of(TenantId("bob"), None)
    True
    >>> salts.of(TenantId("ann"), None) == salts.of(TenantId("team"), None)
    False
    >>> salts.of(TenantId("ann"), "own") == salts.of(TenantId("ann"), None)
    False
    """

    def __init__(self, secret: bytes, groups: Mapping[str, Collection[str]]) -> None:
        self._secret = secret
        self._group_of = {tenant: name for name, tenants in groups.items() for tenant in tenants}

    def of(self, tenant: TenantId, client_salt: object) -> str:
        """The salt to use instead of the client's own, which keeps its prompts apart still more.

        Raises:
            RequestError: the client's is neither absent nor a short text.
        """
        if client_salt is not None and not (
            isinstance(client_salt, str) and 0 < len(client_salt) <= _MAX_CLIENT_SALT_CHARS
        ):
            raise RequestError(
                "The field `cache_salt` must be a text of 1 to "
                f"{_MAX_CLIENT_SALT_CHARS} characters",
                code="invalid_type",
                param="cache_salt",
            )
        group = self._group_of.get(tenant)
        # repr keeps the parts apart, whatever characters they hold.
        identity = repr(("tenant", tenant) if group is None else ("group", group))
        text = repr((identity, client_salt)).encode(errors="surrogatepass")
        return hmac.digest(self._secret, text, sha256).hex()[:_SALT_HEX_DIGITS]
