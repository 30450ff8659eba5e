"""Which subjects there are, and which bench can measure which."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.peers import bare_vllm, galerne, haproxy, litellm, ray_llm, smg, vllm_router
from loadtest.peers.base import Peer

WITH_ENGINES = (
    bare_vllm.DEFAULT, bare_vllm.ONE_PROCESS_PEER, galerne.PEER, ray_llm.DEFAULT, ray_llm.DIRECT,
)  # fmt: skip
"""Start a real engine of their own, each on the same model with the same options."""

OVER_ENGINES = (galerne.PEER, haproxy.PEER, vllm_router.PEER, smg.PEER, litellm.PEER)
"""Route over engines they are given; Galerne simulates its own."""

SIMULATED = tuple(peer for peer in OVER_ENGINES if peer.simulated is not None)
"""Simulate fleets of engines by themselves."""


def choose(peers: Sequence[Peer], names: Sequence[str] | None) -> list[Peer]:
    """The peers with these names, in their own order; all of them for `None`.

    Raises:
        ValueError: there is no such peer.
    """
    if names is None:
        return list(peers)
    known = [peer.name for peer in peers]
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"no such subject: {', '.join(unknown)}; there are {', '.join(known)}")
    return [peer for peer in peers if peer.name in names]
