"""The chart, linted and rendered by Helm itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from monitoring_queries import MONITORING, alerts, dashboards

import serving
from serving.cli.metrics import scrape_config

CHART = Path(__file__).parents[2] / "helm" / "galerne"
ENDPOINT = "http://galerne.example:8000"
EVERYTHING = {
    "rules": {"enabled": True, "labels": {"release": "prometheus"}},
    "dashboards": {"enabled": True},
    "scrape": {"enabled": True, "endpoint": ENDPOINT},
}


@pytest.fixture(scope="module")
def helm() -> Any:
    """The Helm SDK."""
    reason = "helm-python-sdk is not installed; it brings Helm, 244 MB"
    return pytest.importorskip("helm_python", reason=reason)


def rendered(helm: Any, **monitoring: Any) -> dict[str, list[dict[str, Any]]]:
    """The objects that these values make, by kind."""
    with helm.Chart.load(CHART) as chart:
        texts = chart.render({"monitoring": monitoring}, name="g", namespace="n")
    found: dict[str, list[dict[str, Any]]] = {}
    for text in texts.values():
        for document in yaml.safe_load_all(text):
            if document:
                found.setdefault(document["kind"], []).append(document)
    return found


@pytest.mark.parametrize("monitoring", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_helm_finds_no_fault(helm: Any, monitoring: dict[str, Any]) -> None:
    report = helm.lint(CHART, {"monitoring": monitoring}, strict=True)
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []


def test_by_default_nothing_needs_a_custom_resource(helm: Any) -> None:
    assert set(rendered(helm)) == {"ConfigMap"}


def test_the_rules_are_those_that_promtool_has_checked(helm: Any) -> None:
    (rule,) = rendered(helm, **EVERYTHING)["PrometheusRule"]
    assert rule["spec"] == yaml.safe_load((MONITORING / "rules.yaml").read_text())
    assert rule["metadata"]["labels"]["release"] == "prometheus"


def test_alerts_link_to_where_the_runbook_is_published(helm: Any) -> None:
    rules = {"enabled": True, "runbook": "https://wiki.example/galerne"}
    (rule,) = rendered(helm, rules=rules)["PrometheusRule"]
    found = [r for group in rule["spec"]["groups"] for r in group["rules"] if "alert" in r]
    assert {r["annotations"]["runbook_url"] for r in found} == {
        f"https://wiki.example/galerne#{name.lower()}" for name in alerts()
    }


def test_grafanas_sidecar_finds_each_dashboard(helm: Any) -> None:
    maps = rendered(helm)["ConfigMap"]
    found = {}
    for each in maps:
        assert each["metadata"]["labels"]["grafana_dashboard"] == "1"
        ((file, content),) = each["data"].items()
        found[file] = json.loads(content)
    assert found == {f"galerne-{name}.json": document for name, document in dashboards().items()}


def test_scraping_is_as_the_command_prints_it(helm: Any) -> None:
    (scrape,) = rendered(helm, **EVERYTHING)["ScrapeConfig"]
    (printed,) = scrape_config(ENDPOINT, token_file="")["scrape_configs"]
    (printed_discovery,) = printed["http_sd_configs"]
    spec = scrape["spec"]
    (discovery,) = spec["httpSDConfigs"]
    token = {"type": "Bearer", "credentials": {"name": "galerne-metrics-token", "key": "token"}}
    assert spec["jobName"] == printed["job_name"]
    assert spec["scrapeInterval"] == printed["scrape_interval"]
    assert discovery["url"] == printed_discovery["url"]
    assert discovery["refreshInterval"] == printed_discovery["refresh_interval"]
    assert spec["authorization"] == discovery["authorization"] == token


@pytest.mark.parametrize(
    "monitoring",
    [
        {"scrape": {"enabled": True}},
        {"scrape": {"enabled": True, "endpoint": ENDPOINT + "/v1"}},
        {"rules": {"enable": True}},
        {"dashboards": {"labels": {"grafana_dashboard": 1}}},
    ],
)
def test_values_that_cannot_work_are_refused(helm: Any, monitoring: dict[str, Any]) -> None:
    with pytest.raises(helm.HelmValuesError):
        rendered(helm, **monitoring)


def test_the_chart_has_the_platforms_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == serving.__version__
