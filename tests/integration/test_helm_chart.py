"""The chart's monitoring, rendered by Helm itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from helm_chart import CHART, Object, render, require_helm
from monitoring_queries import MONITORING, alerts, dashboards

import serving
from serving.cli.metrics import scrape_config

ENDPOINT = "http://galerne.example:8000"
EVERYTHING = {
    "rules": {"enabled": True, "labels": {"release": "prometheus"}},
    "dashboards": {"enabled": True},
    "scrape": {"enabled": True, "endpoint": ENDPOINT},
}


def rendered(**monitoring: Any) -> dict[str, list[Object]]:
    """The objects that these values make, by kind."""
    found: dict[str, list[Object]] = {}
    for each in render({"monitoring": monitoring}):
        found.setdefault(each["kind"], []).append(each)
    return found


def test_by_default_nothing_needs_a_custom_resource_but_kuberays() -> None:
    versions = {each["apiVersion"] for objects in rendered().values() for each in objects}
    assert {v for v in versions if "." in v and ".k8s.io/" not in v} == {"ray.io/v1"}


def test_the_rules_are_those_that_promtool_has_checked() -> None:
    (rule,) = rendered(**EVERYTHING)["PrometheusRule"]
    assert rule["spec"] == yaml.safe_load((MONITORING / "rules.yaml").read_text())
    assert rule["metadata"]["labels"]["release"] == "prometheus"


def test_alerts_link_to_where_the_runbook_is_published() -> None:
    rules = {"enabled": True, "runbook": "https://wiki.example/galerne"}
    (rule,) = rendered(rules=rules)["PrometheusRule"]
    found = [r for group in rule["spec"]["groups"] for r in group["rules"] if "alert" in r]
    assert {r["annotations"]["runbook_url"] for r in found} == {
        f"https://wiki.example/galerne#{name.lower()}" for name in alerts()
    }


def test_grafanas_sidecar_finds_each_dashboard() -> None:
    found = {}
    for each in rendered()["ConfigMap"]:
        if "settings.json" in each["data"]:
            continue
        assert each["metadata"]["labels"]["grafana_dashboard"] == "1"
        ((file, content),) = each["data"].items()
        found[file] = json.loads(content)
    assert found == {f"galerne-{name}.json": document for name, document in dashboards().items()}


def test_scraping_is_as_the_command_prints_it() -> None:
    (scrape,) = rendered(**EVERYTHING)["ScrapeConfig"]
    (printed,) = scrape_config(ENDPOINT, token_file="")["scrape_configs"]
    (printed_discovery,) = printed["http_sd_configs"]
    spec = scrape["spec"]
    (discovery,) = spec["httpSDConfigs"]
    token = {"type": "Bearer", "credentials": {"name": "g-secrets", "key": "metrics-token"}}
    assert spec["jobName"] == printed["job_name"]
    assert spec["scrapeInterval"] == printed["scrape_interval"]
    assert discovery["url"] == printed_discovery["url"]
    assert discovery["refreshInterval"] == printed_discovery["refresh_interval"]
    assert spec["authorization"] == discovery["authorization"] == token


def test_this_release_is_scraped_unless_another_is_named() -> None:
    (scrape,) = rendered(scrape={"enabled": True})["ScrapeConfig"]
    (discovery,) = scrape["spec"]["httpSDConfigs"]
    assert discovery["url"] == "http://g-serve-svc.n.svc:8000/galerne/metric-targets"


@pytest.mark.parametrize(
    "monitoring",
    [
        {"scrape": {"enabled": True, "endpoint": ENDPOINT + "/v1"}},
        {"rules": {"enable": True}},
        {"dashboards": {"labels": {"grafana_dashboard": 1}}},
    ],
)
def test_values_that_cannot_work_are_refused(monitoring: dict[str, Any]) -> None:
    with pytest.raises(require_helm().HelmValuesError):
        rendered(**monitoring)


def test_the_chart_has_the_platforms_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == serving.__version__
