"""Where this process shows its metrics: asked for by Ray, which can call into any replica."""

from __future__ import annotations

_urls: list[str] = []
# Process-wide, because the question comes through Ray's actor rather than through our objects.


def announce(url: str) -> None:
    """Metrics are at `url` from now on."""
    _urls[:] = [url]


def announced() -> str | None:
    """The address of this process's metrics, if it has any."""
    return _urls[0] if _urls else None
