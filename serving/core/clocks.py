"""Comparing the clocks of two machines that can only ask each other. Pure."""

from __future__ import annotations


def ahead_s(theirs: float, *, asked_at: float, answered_at: float) -> float:
    """How far another machine's clock is ahead of ours at the least, in seconds; negative when it
    is behind, 0 when the time that its answer took can explain the difference.

    Args:
        theirs: what its clock read while it answered, as Unix time.
        asked_at: what ours read before.
        answered_at: what ours read afterwards.

    >>> ahead_s(1_050.0, asked_at=1_000.0, answered_at=1_003.0)
    47.0
    >>> ahead_s(990.0, asked_at=1_000.0, answered_at=1_003.0)
    -10.0
    >>> ahead_s(1_002.0, asked_at=1_000.0, answered_at=1_003.0)
    0.0
    """
    if theirs > answered_at:
        return theirs - answered_at
    return min(theirs - asked_at, 0.0)
