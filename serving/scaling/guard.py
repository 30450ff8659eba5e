"""What a policy's decision is worth when its figures are missing, old, or nonsense."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from enum import StrEnum
from typing import Protocol

from serving.scaling.policy import Decision
from serving.scaling.signals import Replicas, Signals

MAX_AGE_S = 30.0
"""Figures this old miss several scrapes."""
BLIND_HOLD_S = 60.0
"""A Prometheus that restarts is back by then; until then the last target is the best there is."""


class Trouble(StrEnum):
    """Why Prometheus' figures were not used; label values of a metric."""

    MISSING = "missing"
    STALE = "stale"
    NONSENSE = "nonsense"
    PARTIAL = "partial"
    POLICY_FAILED = "policy_failed"


class Policy(Protocol):
    """Decides from figures that can be true."""

    def decide(self, signals: Signals, replicas: Replicas) -> Decision:
        """How many replicas there shall be."""


class GuardedPolicy:
    """A policy that never acts on figures that cannot be true.

    Without figures from Prometheus the last target holds for `BLIND_HOLD_S`. After that the
    replicas' own reports take their place, and while those are missing too the target holds on.
    Figures of a part of the replicas may order more, and let none go. Whatever the figures, nothing
    goes to zero unless Prometheus itself said that it may.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._blind_since_s: float | None = None
        self.troubles: Counter[Trouble] = Counter()
        """How often each has happened."""
        self.error: Exception | None = None
        """What the policy raised last."""

    def decide(
        self,
        measured: Signals | None,
        told: Signals | None,
        replicas: Replicas,
        *,
        now_s: float,
    ) -> Decision:
        """How many replicas there shall be.

        Args:
            measured: Prometheus' figures.
            told: the same from what replicas report by themselves.
        """
        trouble, words = _trouble(measured, replicas)
        if trouble is None:
            self._blind_since_s = None
        else:
            self.troubles[trouble] += 1
            self._blind_since_s = now_s if self._blind_since_s is None else self._blind_since_s
        blind_s = now_s - (now_s if self._blind_since_s is None else self._blind_since_s)
        if measured is not None and trouble is None:
            return self._ask(measured, replicas) or _held(replicas, "the policy failed")
        if blind_s >= BLIND_HOLD_S and told is not None and _trouble(told, replicas)[0] is None:
            decision = self._by_reports(told, replicas, words)
        elif measured is not None and trouble is Trouble.PARTIAL:
            decision = self._by_a_part(measured, replicas, words)
        else:
            decision = None
        return decision or _held(replicas, f"{words} for {blind_s:.0f} s")

    def _by_a_part(self, measured: Signals, replicas: Replicas, words: str) -> Decision | None:
        decision = self._ask(measured, replicas)
        if decision is None:
            return None
        desired = max(decision.desired, replicas.target)
        return replace(decision, desired=desired, reason=f"{decision.reason}; {words}")

    def _by_reports(self, told: Signals, replicas: Replicas, words: str) -> Decision | None:
        decision = self._ask(told, replicas)
        if decision is None:
            return None
        reason = f"by the replicas' own reports ({words}): {decision.reason}"
        desired = max(decision.desired, min(replicas.target, 1))
        return replace(decision, desired=desired, reason=reason)

    def _ask(self, signals: Signals, replicas: Replicas) -> Decision | None:
        try:
            return self._policy.decide(signals, replicas)
        except Exception as error:
            self.troubles[Trouble.POLICY_FAILED] += 1
            self.error = error
            return None


def _held(replicas: Replicas, why: str) -> Decision:
    return Decision(replicas.target, f"held: {why}")


def _trouble(signals: Signals | None, replicas: Replicas) -> tuple[Trouble | None, str]:
    if signals is None:
        return Trouble.MISSING, "no figures"
    if (problem := signals.problem()) is not None:
        return Trouble.NONSENSE, problem
    if signals.age_s > MAX_AGE_S:
        return Trouble.STALE, f"figures {signals.age_s:.0f} s old"
    if signals.replicas_seen is not None and signals.replicas_seen < replicas.ready:
        return Trouble.PARTIAL, f"figures of {signals.replicas_seen} of {replicas.ready} replicas"
    if signals.gateways_missing:
        return Trouble.PARTIAL, f"{signals.gateways_missing} gateways tell nothing"
    return None, ""
