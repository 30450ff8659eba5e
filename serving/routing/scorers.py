"""What makes a replica a good place for a request, one function per reason.

A scorer gives every candidate a value from 0 (worst) to 1 (best), in the order of the candidates,
of which there is at least one. A policy adds them up by its weights, which say how much one reason
counts against the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from hashlib import blake2b

from serving.core.types import ReplicaId
from serving.routing.snapshots import ReplicaSnapshot, RequestProfile

Candidates = Sequence[ReplicaSnapshot]
Scores = list[float]
Scorer = Callable[[RequestProfile, Candidates], Scores]

_BASE_TTFT_S = 0.02
"""Part of TTFT that is the same everywhere: replicas a few milliseconds apart score alike."""

_WORTH_WAITING = 10.0
"""How much longer a request may queue for its cached prefix than computing it anew would take.

Computing it again costs the replica that does, and every request behind; queueing costs this
request. On the first 3,000 requests of the Mooncake conversation trace, over 8 simulated replicas
near saturation, 2 realises 90 % of the hits that were there to be had, 5 96 %, 10 97 % and 20 98 %,
at the same TTFT. From 10 on, a prefix that everybody shares loads its holder 1.3 times the mean.
"""

_ROOMY_RATIO = 0.1
"""Share of the KV cache left that counts as plenty."""

_FRESH_REPORT_S = 1.0
"""Reports come ten times a second; one this old has been missed several times."""


def score_ttft(request: RequestProfile, candidates: Candidates) -> Scores:
    """Predicted TTFT: the prompts queued ahead and the uncached part of this one, at the replica's
    measured prefill rate. The shortest scores 1, one twice as long 0.5: a ratio tells replicas
    apart when all are idle and when all have long queues.

    >>> idle = ReplicaSnapshot(ReplicaId("a"))
    >>> busy = ReplicaSnapshot(ReplicaId("b"), waiting_tokens=10_800)
    >>> [round(score, 2) for score in score_ttft(RequestProfile(1000, 10), [idle, busy])]
    [1.0, 0.1]
    """
    ttfts_s = [
        replica.wait_s
        + request.uncached_tokens(replica.id) / replica.prefill_tokens_per_s
        + _BASE_TTFT_S
        for replica in candidates
    ]
    shortest_s = min(ttfts_s)
    return [shortest_s / ttft_s for ttft_s in ttfts_s]


def score_prefix_hit(request: RequestProfile, candidates: Candidates) -> Scores:
    """The share of the prompt that the replica has cached: work that nobody has to do. It counts
    less the longer the holder's queue is beyond the shortest one, in proportion to the time the
    hit saves. So a prefix that everybody asks for spreads once its holder is saturated, and a long
    one that took seconds to compute is worth many seconds in a queue.

    >>> other = ReplicaSnapshot(ReplicaId("b"))
    >>> request = RequestProfile(1000, 10, hit_tokens={ReplicaId("a"): 800})
    >>> [round(score, 2) for score in score_prefix_hit(request, [ReplicaSnapshot("a"), other])]
    [0.8, 0.0]
    >>> crowded = ReplicaSnapshot(ReplicaId("a"), waiting_tokens=8000)
    >>> [round(score, 2) for score in score_prefix_hit(request, [crowded, other])]
    [0.4, 0.0]
    """
    shortest_s = min(replica.wait_s for replica in candidates)
    scores: Scores = []
    for replica in candidates:
        hit = min(request.hit_tokens.get(replica.id, 0), request.prompt_tokens)
        worth_s = _WORTH_WAITING * hit / replica.prefill_tokens_per_s
        extra_s = replica.wait_s - shortest_s
        scores.append(hit / request.prompt_tokens * worth_s / (worth_s + extra_s) if hit else 0.0)
    return scores


def score_kv_headroom(request: RequestProfile, candidates: Candidates) -> Scores:
    """Whether prompt and expected output fit into the KV cache. A replica that runs out preempts
    somebody and computes them again, so this falls to 0 with the room that would be left, and is
    flat while there is plenty: full caches are where prefix hits come from.

    >>> roomy = ReplicaSnapshot(ReplicaId("a"), free_kv_tokens=60_000, total_kv_tokens=100_000)
    >>> tight = ReplicaSnapshot(ReplicaId("b"), free_kv_tokens=6_000, total_kv_tokens=100_000)
    >>> score_kv_headroom(RequestProfile(900, 100), [roomy, tight, ReplicaSnapshot(ReplicaId("c"))])
    [1.0, 0.5, 0.5]
    """
    needed = request.prompt_tokens + request.expected_output_tokens
    return [
        _headroom(replica, needed) if replica.total_kv_tokens else 0.5 for replica in candidates
    ]


def score_lora(request: RequestProfile, candidates: Candidates) -> Scores:
    """Whether the request's adapter is loaded. Loading one takes time and may push another out, so
    requests of an adapter stay together until other reasons outweigh that. Without an adapter all
    are equal.

    >>> has_it = ReplicaSnapshot(ReplicaId("a"), adapters=frozenset({"sql"}))
    >>> score_lora(RequestProfile(9, 9, lora_name="sql"), [has_it, ReplicaSnapshot(ReplicaId("b"))])
    [1.0, 0.0]
    >>> score_lora(RequestProfile(9, 9), [has_it, ReplicaSnapshot(ReplicaId("b"))])
    [1.0, 1.0]
    """
    if request.lora_name is None:
        return [1.0] * len(candidates)
    return [float(request.lora_name in replica.adapters) for replica in candidates]


def score_affinity(request: RequestProfile, candidates: Candidates) -> Scores:
    """Whether this is the session's own replica, by rendezvous hashing: every gateway names the
    same one without asking the others, and when a replica goes only its own sessions move. That
    finds a session's cache where no index knows it, so it matters most for engines that publish no
    events. Without a session all are equal.

    Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998.

    >>> replicas = [ReplicaSnapshot(ReplicaId(name)) for name in "abc"]
    >>> score_affinity(RequestProfile(9, 9, session="x"), replicas)
    [1.0, 0.0, 0.0]
    >>> score_affinity(RequestProfile(9, 9), replicas)
    [1.0, 1.0, 1.0]
    """
    if request.session is None:
        return [1.0] * len(candidates)
    ranks = [_rank(request.session, replica.id) for replica in candidates]
    highest = max(ranks)
    return [float(rank == highest) for rank in ranks]


def locality_scorer(node_id: str) -> Scorer:
    """Whether the replica is on the gateway's own node: one network hop less for every token, and
    nothing to lose when that network is busy. Small beside queues and caches.

    >>> near, far = ReplicaSnapshot(ReplicaId("a"), node_id="n1"), ReplicaSnapshot(ReplicaId("b"))
    >>> locality_scorer("n1")(RequestProfile(9, 9), [near, far])
    [1.0, 0.0]
    """

    def score_locality(_request: RequestProfile, candidates: Candidates) -> Scores:
        return [float(replica.node_id == node_id) for replica in candidates]

    return score_locality


def freshness(replica: ReplicaSnapshot) -> float:
    """How much a replica's scores count: 1 while its reports come, falling to 0.5 without them. A
    replica that has gone silent may be overloaded or gone, but it must not be shut out: when all
    are silent, the gateway's own counts are still right.

    >>> [freshness(ReplicaSnapshot(ReplicaId("a"), report_age_s=age)) for age in (0.2, 2.0)]
    [1.0, 0.75]
    """
    age_s = max(replica.report_age_s, _FRESH_REPORT_S)
    return 0.5 + 0.5 * (0.0 if math.isinf(age_s) else _FRESH_REPORT_S / age_s)


def _headroom(replica: ReplicaSnapshot, needed_tokens: int) -> float:
    left = replica.free_kv_tokens - needed_tokens
    return min(max(left / (_ROOMY_RATIO * replica.total_kv_tokens), 0.0), 1.0)


def _rank(session: str, replica: ReplicaId) -> bytes:
    return blake2b(f"{session}\0{replica}".encode(), digest_size=8).digest()
