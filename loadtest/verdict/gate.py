"""Whether B may be released: a comparison held against what may become worse."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from loadtest.verdict.compare import Comparison
from loadtest.verdict.effects import Effect
from serving.errors import ConfigError

MAX_REGRESSION_RATIO = 1.05
MAX_FAILED_INCREASE = 0.01


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether it passed.

    `regressions` are beyond their tolerance for certain. `suspicions` came out beyond it, but may
    be chance: worth a longer run, not a red build. `reasons` to fail are regressions and whatever
    else keeps B from being judged.
    """

    passed: bool
    reasons: tuple[str, ...]
    regressions: tuple[Effect, ...]
    suspicions: tuple[Effect, ...]


def gate(
    comparison: Comparison,
    *,
    max_regression_ratio: float = MAX_REGRESSION_RATIO,
    tolerances: Mapping[str, float] | None = None,
) -> Gate:
    """Fails if a figure is worse in B by more than its tolerance with its whole interval.

    So a build does not fail by chance, and runs of more requests find smaller regressions. It
    fails too if nothing can be told: a run's generator was the bottleneck, or too little was
    measured of everything.

    Args:
        max_regression_ratio: how many times as long, or what part of the goodput (its inverse).
        tolerances: by metric (`ttft_ms`) or one statistic of it (`ttft_ms.p99`), instead of that.
            That of `failed_ratio` is by how much it may rise, `MAX_FAILED_INCREASE` if not given.

    Raises:
        ConfigError: there is no such figure, or a tolerance is below no change at all.
    """
    limits = _limits(comparison, max_regression_ratio, tolerances or {})
    decided = [effect for effect in comparison.effects if effect.change is not None]
    regressions = tuple(effect for effect in decided if _worse(effect)[0] > limits[effect.name])
    suspicions = tuple(
        effect
        for effect in decided
        if effect not in regressions and _worse(effect)[1] > limits[effect.name]
    )
    reasons = [*comparison.problems]
    reasons += [
        f"{effect.in_words()}; the tolerance is {limits[effect.name]:g}" for effect in regressions
    ]
    if not _is_enough(comparison):
        reasons += [f"nothing can be told: {effect.in_words()}" for effect in comparison.effects]
    return Gate(not reasons, tuple(reasons), regressions, suspicions)


def _is_enough(comparison: Comparison) -> bool:
    """Whether anything can be told; that as many failed as before says nothing where all did."""
    most_telling = [effect for effect in comparison.effects if not effect.is_difference]
    return any(effect.change is not None for effect in most_telling or comparison.effects)


def _limits(
    comparison: Comparison, ratio: float, tolerances: Mapping[str, float]
) -> dict[str, float]:
    """The tolerance of each figure, by its name."""
    _check(comparison, {"max_regression_ratio": ratio, **tolerances})
    limits = {}
    for effect in comparison.effects:
        usual = MAX_FAILED_INCREASE if effect.is_difference else ratio
        of_metric = tolerances.get(effect.metric, usual)
        limits[effect.name] = tolerances.get(effect.name, of_metric)
    return limits


def _check(comparison: Comparison, tolerances: Mapping[str, float]) -> None:
    names = [effect.name for effect in comparison.effects]
    known = dict.fromkeys(["max_regression_ratio", *_metrics(comparison), *names])
    for name, tolerance in tolerances.items():
        if name not in known:
            raise ConfigError(
                f"there is no figure {name!r} to be compared",
                code="tolerance_invalid",
                param=name,
                hint=f"known here: {', '.join(known)}",
            )
        unchanged = 0.0 if name == "failed_ratio" else 1.0
        if not unchanged <= tolerance < math.inf:
            raise ConfigError(
                f"the tolerance of {name} is {tolerance:g}; it must be at least {unchanged:g}, "
                "which is no change",
                code="tolerance_invalid",
                param=name,
            )


def _metrics(comparison: Comparison) -> list[str]:
    return [effect.metric for effect in comparison.effects]


def _worse(effect: Effect) -> tuple[float, float]:
    """How much worse it became at least, and as it came out; 1 times or 0 more is no change."""
    assert effect.change is not None
    assert effect.low is not None
    assert effect.high is not None
    if effect.is_least:
        return _inverse(effect.high), _inverse(effect.change)
    return effect.low, effect.change


def _inverse(ratio: float) -> float:
    return 1 / ratio if ratio > 0 else math.inf
