"""Every PromQL expression of Galerne's rules and dashboards, and the metrics that each names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import yaml

MONITORING = Path(__file__).parents[1] / "k8s" / "monitoring"
_VARIABLES = {"$__rate_interval": "5m", "$__range": "3h", "$model": "m", "$tenant": "t"}
_LABEL_VALUES = re.compile(r"label_values\((.+), *\w+\)")


def rules() -> list[dict[str, Any]]:
    """Recording rules and alerts, in their order."""
    groups = yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """Alerts by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def recorded_names() -> set[str]:
    """Metrics that the rules make."""
    return {rule["record"] for rule in rules() if "record" in rule}


def dashboards() -> dict[str, dict[str, Any]]:
    """The committed dashboards by name."""
    paths = sorted((MONITORING / "dashboards").glob("*.json"))
    return {path.stem: json.loads(path.read_text()) for path in paths}


def expressions() -> dict[str, str]:
    """All expressions, by where they stand; Grafana's variables have values."""
    found = {f"rule {rule.get('alert') or rule['record']}": rule["expr"] for rule in rules()}
    for name, document in dashboards().items():
        for panel in document["panels"]:
            for target in panel.get("targets", ()):
                where = f"{name}: {panel['title']} {target['refId']}"
                found[where] = _without_variables(target["expr"])
        for event in document["annotations"]["list"]:
            found[f"{name}: annotation {event['name']}"] = _without_variables(event["expr"])
        for variable in document["templating"]["list"]:
            if values := _LABEL_VALUES.fullmatch(str(variable["query"])):
                found[f"{name}: variable {variable['name']}"] = _without_variables(values[1])
    return found


def metric_names_in(expression: str) -> set[str]:
    """Names of the metrics that an expression asks for."""
    names: set[str] = set()

    def note(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            assert node.name, f"a selector without a metric in {expression}"
            names.add(node.name)

    promql_parser.walk(promql_parser.parse(expression), note)
    return names


def raw_metric_names() -> set[str]:
    """Names of the metrics that the platform, or Prometheus itself, must have."""
    named = {name for text in expressions().values() for name in metric_names_in(text)}
    return named - recorded_names()


def _without_variables(expression: str) -> str:
    for variable, value in _VARIABLES.items():
        expression = expression.replace(variable, value)
    return expression
