"""What is wrong with a platform: `diagnose`. One function per complaint, listed in `_CHECKS`.

`findings_of_pods.py`, `findings_of_setup.py` and `findings_of_metrics.py` have the checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from serving.operations import findings_of_metrics, findings_of_pods, findings_of_setup
from serving.operations.survey import Finding, Severity, Survey

_CHECKS: tuple[Callable[[Survey], Iterator[Finding]], ...] = (
    findings_of_setup.missing_parts,
    findings_of_setup.old_definitions,
    findings_of_setup.settings,
    findings_of_setup.secrets,
    findings_of_pods.unschedulable,
    findings_of_pods.image_pulls,
    findings_of_pods.crashes,
    findings_of_pods.probes,
    findings_of_pods.shared_memory,
    findings_of_setup.bounds,
    findings_of_metrics.scraping,
    findings_of_setup.clocks,
)


def diagnose(survey: Survey) -> tuple[Finding, ...]:
    """All findings, errors first, else in the order in which one leads to the next."""
    found = [finding for check in _CHECKS for finding in check(survey)]
    return tuple(sorted(found, key=lambda each: each.severity is not Severity.ERROR))
