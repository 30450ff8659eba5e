"""What a scenario found: figures, and a verdict that says why. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from loadtest.verdict.checks import miss
from loadtest.verdict.summary import Check, Summary

_EXIT_CODES = {"pass": 0, "fail": 1, "invalid": 4}
"""Those of `galerne load run`."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to one question. `doubts` say why the figures mean nothing, if they do not: the
    generator was the bottleneck in one of the runs."""

    scenario: str
    figures: Mapping[str, Any]
    checks: tuple[Check, ...]
    doubts: tuple[str, ...] = ()

    @property
    def verdict(self) -> Literal["pass", "fail", "invalid"]:
        """Whether every check is met."""
        if self.doubts:
            return "invalid"
        return "pass" if all(check.met for check in self.checks) else "fail"

    @property
    def reasons(self) -> tuple[str, ...]:
        """What the verdict rests on."""
        if self.doubts:
            return self.doubts
        missed = tuple(miss(check) for check in self.checks if not check.met)
        return missed or (f"{len(self.checks)} of {len(self.checks)} checks are met",)

    @property
    def exit_code(self) -> int:
        """What the process should end with."""
        return _EXIT_CODES[self.verdict]

    def line(self) -> dict[str, Any]:
        """All of it, for a program."""
        return {
            "scenario": self.scenario,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            **{name: _rounded(value) for name, value in self.figures.items()},
        }


def doubts(summaries: Iterable[Summary]) -> tuple[str, ...]:
    """Why runs are invalid, each reason once."""
    invalid = (summary.reasons for summary in summaries if summary.verdict == "invalid")
    return tuple(dict.fromkeys(reason for reasons in invalid for reason in reasons))


def _rounded(value: Any) -> Any:
    """With as many digits as a measurement deserves, however deep it stands.

    >>> _rounded({"a": [1.234567, None], "b": 1234567})
    {'a': [1.235, None], 'b': 1234567}
    """
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {name: _rounded(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return value
