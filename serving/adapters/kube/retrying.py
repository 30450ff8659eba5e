"""When a request is repeated, and after how long. Pure."""

from __future__ import annotations

from serving.adapters.kube.failures import Refusal

_FIRST_DELAY_S = 0.2
_LONGEST_DELAY_S = 5.0

_SAFE_VERBS = frozenset({"get", "list", "watch", "update", "patch", "delete"})
"""Requests that do no harm when they come twice: updates name the version they are made on, a
second delete finds nothing. A create that was carried out would come back as "it is there"."""


def is_worth_repeating(refusal: Refusal, *, verb: str) -> bool:
    """Whether the same request may fare better later.

    429 is refused before anything is done, so that any verb may come again; a disruption budget
    answers 429 too, and its caller knows better when to try again.

    >>> [is_worth_repeating(Refusal(code), verb="create") for code in (429, 500)]
    [True, False]
    >>> [is_worth_repeating(Refusal(code), verb="get") for code in (503, 501, 404)]
    [True, False, False]
    """
    if refusal.code == 429:
        return not refusal.has_cause("DisruptionBudget")
    if refusal.is_of_schema:
        return False
    return refusal.code >= 500 and refusal.code != 501 and verb in _SAFE_VERBS


def is_safe(verb: str) -> bool:
    """Whether a request without an answer may be sent again."""
    return verb in _SAFE_VERBS


def delay_s(num_failures: int, *, retry_after_s: float | None, random: float) -> float:
    """Seconds before the next try: what the server asks for, else twice as long each time.

    Args:
        num_failures: so far, at least 1.
        retry_after_s: the server's wish.
        random: 0 to 1, spreads clients that failed together over half of the delay.

    >>> [delay_s(n, retry_after_s=None, random=1.0) for n in (1, 2, 3, 9)]
    [0.2, 0.4, 0.8, 5.0]
    >>> delay_s(1, retry_after_s=7, random=0.0)
    7
    """
    if retry_after_s is not None:
        return retry_after_s
    backoff: float = min(_FIRST_DELAY_S * 2 ** (num_failures - 1), _LONGEST_DELAY_S)
    return backoff * (0.5 + random / 2)
