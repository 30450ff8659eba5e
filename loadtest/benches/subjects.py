"""Running subjects one after another, and reporting those that cannot run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from loadtest.figures import Figures
from loadtest.peers.base import Peer, UnavailableError


def progress(text: str) -> None:
    """A line on stderr; stdout is for figures."""
    print(text, file=sys.stderr, flush=True)


def installed(
    bench: str, peers: Sequence[Peer], figures: Figures
) -> tuple[list[Peer], dict[str, str]]:
    """The peers that can run and the version of each; the others are noted as skipped."""
    ready, versions = [], {}
    for peer in peers:
        try:
            versions[peer.name] = peer.install()
            ready.append(peer)
        except UnavailableError as error:
            _skip(bench, peer, figures, error)
    return ready, versions


def in_turn(
    bench: str,
    peers: Sequence[Peer],
    figures: Figures,
    *,
    restarts: int,
    measure: Callable[[Peer], None],
) -> None:
    """Measure every peer `restarts` times, each alone, the order reversed every other time.

    Alternating lets a slow drift of the machine fall on all of them. A peer that does not come up
    is not tried again.
    """
    broken: set[str] = set()
    for number in range(restarts):
        order = list(peers) if number % 2 == 0 else list(reversed(peers))
        for peer in order:
            if peer.name in broken:
                continue
            progress(f"{bench}: {peer.name}, start {number + 1} of {restarts}")
            try:
                measure(peer)
            except UnavailableError as error:
                broken.add(peer.name)
                _skip(bench, peer, figures, error)


def _skip(bench: str, peer: Peer, figures: Figures, error: UnavailableError) -> None:
    progress(f"{bench}: {peer.name} skipped: {error}")
    lines = str(error).splitlines()
    figures.skip(bench, peer.name, lines[0] if len(lines) == 1 else f"{lines[0]}: {lines[-1]}")
