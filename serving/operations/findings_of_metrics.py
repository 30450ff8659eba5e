"""Complaints about metrics: nothing tells Prometheus where they are, or it does not get them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from serving.operations.selectors import selects
from serving.operations.snapshot import TYPE_LABEL, Object, at, labels_of, name_of
from serving.operations.survey import Finding, Survey, warning

_TARGETS = "/galerne/metric-targets"
"""The path of ours that tells Prometheus where the metrics are."""


def scraping(survey: Survey) -> Iterator[Finding]:
    """Prometheus does not scrape the platform: by its own word, or as nothing tells it to."""
    if survey.snapshot.service is None:
        return
    if survey.targets is not None:
        yield from _unscraped(survey, survey.targets)
    elif "monitors" not in survey.unread:
        yield from _untold(survey)


def _unscraped(survey: Survey, targets: Sequence[Object]) -> Iterator[Finding]:
    addresses = {at(pod, "status", "podIP") for pod in survey.snapshot.pods} - {None}
    ours = [each for each in targets if _host(each) in addresses and _component(each)]
    wanted = {"gateway"} | ({"engine"} if _has_engines(survey.settings or {}) else set())
    if missing := sorted(wanted - {_component(each) for each in ours}):
        yield warning(
            "not_scraped",
            f"Prometheus scrapes no {' and no '.join(missing)} of the platform",
            why=f"of its {len(targets)} targets none is one; without figures the scaling policy "
            "goes by the replicas' own reports",
            mend="does it take up the ScrapeConfig (its labels and namespace), and may it reach "
            f"the gateways' {_TARGETS}? See Status > Service discovery in Prometheus",
        )
    for each in ours:
        if each.get("health") == "down":
            yield warning(
                "scrape_fails",
                f"Prometheus cannot scrape {_component(each)} {at(each, 'labels', 'replica')}",
                why=str(each.get("lastError") or "it does not say why"),
                mend="401: it has not the platform's metrics token; no connection: let it in with "
                "networkPolicy.prometheus in the chart's values",
            )


def _host(target: Object) -> str:
    return str(at(target, "discoveredLabels", "__address__") or "").rpartition(":")[0].strip("[]")


def _component(target: Object) -> str:
    """What of the platform a target is; empty for one that we did not tell of, such as Ray's own.

    Source: `serving/gateway_assembly.py`, the labels of metric targets.
    """
    labels = at(target, "discoveredLabels") or {}
    # Not by the model: Prometheus drops labels that are empty, as a gateway's is.
    return str(labels.get("component", "")) if "replica" in labels else ""


def _has_engines(settings: Mapping[str, Any]) -> bool:
    """Whether a model always has a replica."""
    models = (settings.get("models") or {}).values()
    return any((at(each, "scaling") or {}).get("min_replicas", 1) for each in models)


def _untold(survey: Survey) -> Iterator[Finding]:
    kinds = {str(each["kind"]) for each in survey.monitors or () if _is_ours(each, survey)}
    if survey.monitors is None:
        why = "the cluster has no prometheus-operator"
    elif missing := {"PodMonitor", "ScrapeConfig"} - kinds:
        why = f"the namespace has no {' and no '.join(sorted(missing))} for this platform"
    else:
        return
    yield warning(
        "not_scraped",
        "Prometheus is not told to scrape the platform",
        why=f"{why}; without figures the scaling policy goes by the replicas' own reports",
        mend="set monitoring.podMonitor.enabled and monitoring.scrape.enabled in the chart's "
        "values, or add the targets of /galerne/metric-targets to your Prometheus",
    )


def _is_ours(monitor: Object, survey: Survey) -> bool:
    """Whether a PodMonitor selects a pod of the platform, or a ScrapeConfig names the platform."""
    spec = monitor.get("spec") or {}
    if monitor["kind"] == "PodMonitor":
        labels = [labels_of(pod) for pod in survey.snapshot.pods] or [
            _labels_to_be(survey.snapshot.service)
        ]
        return any(selects(spec.get("selector") or {}, each) for each in labels)
    targets = [
        *(str(each.get("url")) for each in spec.get("httpSDConfigs") or ()),
        *(
            str(each)
            for row in spec.get("staticConfigs") or ()
            for each in row.get("targets") or ()
        ),
    ]
    name = survey.snapshot.name
    return name_of(monitor) == name or any(
        f"{name}-" in each or _TARGETS in each for each in targets
    )


def _labels_to_be(service: Object | None) -> dict[str, str]:
    """What the head's pod is labelled with once it is there."""
    config = at(service, "spec", "rayClusterConfig") or {}
    own = at(config, "headGroupSpec", "template", "metadata", "labels") or {}
    return {**own, TYPE_LABEL: "head", "ray.io/is-ray-node": "yes"}
