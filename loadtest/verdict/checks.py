"""What an SLO asks, line by line, and what follows from it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from loadtest.about import WorkerFigures
from loadtest.records import OWN_ERRORS
from loadtest.verdict.slo import Limits, Slo
from loadtest.verdict.summary import Check, Part, Verdict

MOST_CPU_RATIO = 0.9
"""Of one core: a worker that is busier has moments in which it is late."""
LEAST_LAG_MS = 5.0
_MOST_NAMED = 6
"""Errors that a reason names: a server may make one up for each request."""
LAG_SHARE = 0.05
"""The generator may be late by this share of what it measures, at least by `LEAST_LAG_MS`, which
a busy machine's scheduler takes by itself. The p99 of lag is held against the median measured."""


def checks(slo: Slo, overall: Part, parts: Sequence[Part]) -> tuple[Check, ...]:
    """Each limit of an SLO but those for one request, which `attainment_ratio` sums up."""
    by_name = {part.name: part for part in parts}
    found = list(_checks(slo, overall, ""))
    for name, limits in slo.traffic.items():
        found += _checks(limits, by_name.get(name), f"traffic.{name}.")
    return tuple(found)


def _checks(limits: Limits, part: Part | None, prefix: str) -> Iterator[Check]:
    if limits.request is not None:
        for metric, limit_ms in limits.request.limits():
            if part is None or (part.completed and getattr(part, metric) is None):
                yield Check(f"{prefix}request.{metric}", limit_ms, None, met=False)
        attained = part.attainment_ratio if part else None
        yield at_least(f"{prefix}attainment_ratio", limits.attainment_ratio, attained)
    yield from _quantile_checks(limits, part, prefix)
    if limits.failed_ratio is not None:
        yield at_most(
            f"{prefix}failed_ratio", limits.failed_ratio, failed_ratio(part) if part else None
        )
    for name in ("goodput_rps", "output_tokens_per_s"):
        if (limit := getattr(limits, name)) is not None:
            yield at_least(f"{prefix}{name}", limit, getattr(part, name, None))


def _quantile_checks(limits: Limits, part: Part | None, prefix: str) -> Iterator[Check]:
    if limits.percentiles is None:
        return
    for metric in type(limits.percentiles).model_fields:
        if (quantiles := getattr(limits.percentiles, metric)) is not None:
            for name, limit_ms in quantiles.limits():
                reached = getattr(getattr(part, metric, None), name, None)
                yield at_most(f"{prefix}percentiles.{metric}.{name}", limit_ms, reached)


def percent(ratio: float) -> str:
    """A share in words.

    >>> percent(0.05), percent(0.9985)
    ('5 %', '99.9 %')
    """
    return f"{100 * ratio:.3g} %"


def failed_ratio(part: Part) -> float | None:
    """The share of requests that failed, of all but cancelled ones; `None` if there are none."""
    judged = part.requests - part.cancelled
    return part.failed / judged if judged else None


NOT_WHOLE = "the run is not whole: what waited for its answer when it was stopped is not in it"


def at_most(what: str, limit: float, measured: float | None) -> Check:
    """A figure that must not be above its limit; what could not be measured does not keep it."""
    return Check(what, limit, measured, met=measured is not None and measured <= limit)


def at_least(what: str, limit: float, measured: float | None) -> Check:
    """A figure that must not be below its limit; what could not be measured does not keep it."""
    met = measured is not None and measured >= limit
    return Check(what, limit, measured, met=met, is_least=True)


def conclude(
    overall: Part,
    found: Sequence[Check],
    workers: Sequence[WorkerFigures],
    *,
    has_slo: bool,
    is_whole: bool = True,
) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict of a run and its reasons, worst first.

    A run in which the generator was the bottleneck is invalid with or without an SLO, and whether
    or not it keeps it; so is one that was stopped: what took long is not in it. One that completed
    nothing fails without an SLO too. Answers that ended early are no reason for a verdict, but are
    named beside it.
    """
    if not is_whole:
        return "invalid", (NOT_WHOLE,)
    if not overall.requests:
        return "fail", ("no request was due",)
    if late := bottlenecks(overall, workers):
        return "invalid", late
    missed = tuple(miss(check) for check in sorted(found, key=_excess) if not check.met)
    if not overall.completed:
        return "fail", (nothing_completed(overall), *missed)
    early = early_ends(overall)
    if missed:
        return "fail", (*missed, *early)
    if not has_slo:
        return "none", ("no SLO was given", *early)
    return "pass", (f"all of the SLO is met: {len(found)} of {len(found)} checks", *early)


def early_ends(overall: Part) -> tuple[str, ...]:
    """What is to be said of answers that have less than the length that was asked for, if some do:
    a server that gives less looks faster, and as if it could take more."""
    if overall.early_length_ratio is None:
        return ()
    return (
        f"{overall.ended_early} of {overall.completed} completed answers ended before the length "
        f"that was asked for, with {percent(overall.early_length_ratio)} of its tokens on average, "
        "so that figures are of less work than was planned: the server may not know ignore_eos",
    )


def bottlenecks(overall: Part, workers: Sequence[WorkerFigures]) -> tuple[str, ...]:
    """In which ways the generator was the bottleneck, worst first; none if it was not."""
    most_ms = allowed_lag_ms(overall)
    lateness = {}
    if overall.send_lag_ms:
        lateness["requests were sent late: p99 of the send lag"] = overall.send_lag_ms.p99
    for index, worker in enumerate(workers):
        name = f"worker {index} on {worker.host}"
        lateness[f"{name} read late: p99 of its event loop's lag"] = worker.loop_lag_p99_ms
    found = [_beyond(what, lag, most_ms, " ms") for what, lag in lateness.items()]
    for index, worker in enumerate(workers):
        what = f"worker {index} on {worker.host} was busy: its share of a core"
        found.append(_beyond(what, worker.cpu_ratio, MOST_CPU_RATIO, ""))
    worst_first = sorted((pair for pair in found if pair[0] > 1), reverse=True)
    own = [f"it lost {overall.errors[code]} requests itself ({code})"
           for code in OWN_ERRORS if code in overall.errors]  # fmt: skip
    reasons = (*own, *(reason for _, reason in worst_first))
    return tuple(f"the generator was the bottleneck: {reason}" for reason in reasons)


def allowed_lag_ms(overall: Part) -> float:
    """How late the generator may be before its figures mean nothing."""
    typical = overall.ttft_ms or overall.latency_ms
    return max(LEAST_LAG_MS, LAG_SHARE * typical.p50 if typical else 0.0)


def _beyond(what: str, measured: float, most: float, unit: str) -> tuple[float, str]:
    return measured / most, f"{what} is {_shown(measured)}{unit}, more than {_shown(most)}{unit}"


def _excess(check: Check) -> float:
    """Sorts the worst first: what was not measured, then what is furthest from its limit."""
    if check.measured is None:
        return -math.inf
    better, worse = check.limit, check.measured
    if check.is_least:
        better, worse = worse, better
    return -worse / better if better else -math.inf


def miss(check: Check) -> str:
    """A check that is not met, in words."""
    limit = _shown(check.limit)
    if check.measured is None:
        return f"{check.what}: nothing was measured, so its limit of {limit} is not met"
    direction = "less" if check.is_least else "more"
    return f"{check.what} is {_shown(check.measured)}, {direction} than {limit}"


def nothing_completed(overall: Part) -> str:
    """What became of requests of which none was completed."""
    ends: Mapping[str, int] = {**overall.errors, "cancelled by the workload": overall.cancelled}
    counts = [f"{count} {name}" for name, count in ends.items() if count]
    if others := counts[_MOST_NAMED:]:
        counts = [*counts[:_MOST_NAMED], f"and {len(others)} further errors"]
    return f"none of {overall.requests} requests was completed: {', '.join(counts)}"


def _shown(value: float) -> str:
    return f"{value:.7g}"
