"""Whose request an engine serves, and how many tokens it takes: what tenants are accounted for.

The gateway names the tenant in a header. The replica's guard makes a `RequestUsage` for each
request; the engine, real or simulated, leaves in it how to read what the request has taken, so that
counting costs nothing while tokens come. The guard reads it at the request's end, whatever end.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import NamedTuple
from urllib.parse import quote, unquote

from serving.core.types import TenantId


class TokenCounts(NamedTuple):
    """Tokens of one request or of a part of it, as usage reports them: `cached` of the `prompt`
    were found in the prefix cache. A prompt counts once it is computed, however many answers it
    gets."""

    prompt: int = 0
    cached: int = 0
    output: int = 0


class RequestUsage:
    """What one request takes of the engine.

    >>> usage = RequestUsage()
    >>> usage.follow(lambda: TokenCounts(prompt=10, cached=8, output=3))
    >>> usage.follow(lambda: TokenCounts(output=4))
    >>> usage.settle()
    TokenCounts(prompt=10, cached=8, output=7)
    >>> usage.settle()
    TokenCounts(prompt=0, cached=0, output=0)
    """

    def __init__(self) -> None:
        self._meters: list[Callable[[], TokenCounts]] = []

    def follow(self, meter: Callable[[], TokenCounts]) -> None:
        """Add what `meter` tells at the request's end."""
        self._meters.append(meter)

    def settle(self) -> TokenCounts:
        """What the request has taken so far; nothing more of it is followed."""
        meters, self._meters = self._meters, []
        counts = [meter() for meter in meters]
        return TokenCounts(*(sum(column) for column in zip(*counts, strict=True)))


current_usage: ContextVar[RequestUsage | None] = ContextVar("usage", default=None)
"""Of the request that is being served, if it is accounted for."""


def pack_tenant(tenant: TenantId) -> bytes:
    """A tenant as a header's value: names of keys have any printable characters.

    >>> pack_tenant(TenantId("Équipe 7%"))
    b'%C3%89quipe%207%25'
    """
    return quote(tenant, safe="").encode()


def unpack_tenant(header: bytes) -> TenantId:
    """The tenant that `pack_tenant` was given; any header has some.

    >>> unpack_tenant(pack_tenant(TenantId("Équipe 7%")))
    'Équipe 7%'
    """
    return TenantId(unquote(header.decode("latin-1"), errors="replace"))
