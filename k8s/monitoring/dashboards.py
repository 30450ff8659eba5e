"""The four dashboards as Grafana's JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from k8s.monitoring import autoscaler, fleet, model, tenant
from k8s.monitoring.panels import PROMETHEUS

BUILDERS: Mapping[str, Callable[[], Dashboard]] = {
    "fleet": fleet.build,
    "model": model.build,
    "tenant": tenant.build,
    "autoscaler": autoscaler.build,
}


def render(name: str) -> str:
    """A dashboard's JSON, with alerts and changes of replicas marked in every graph."""
    document = json.loads(JSONEncoder().encode(BUILDERS[name]().build()))
    for number, panel in enumerate(document["panels"], start=1):
        panel["id"] = number
    document["annotations"] = {"list": _events("" if name == "fleet" else 'model=~"$model|"')}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _events(models: str) -> list[dict[str, Any]]:
    firing = f'ALERTS{{alertname=~"Galerne.*", alertstate="firing", {models}}}'
    changes = f"changes(galerne_scaling_changes_total{{{models}}}[2m])"
    return [
        _marks("Alerts", firing, color="red", title="{{alertname}} {{model}} {{slo}}"),
        _marks(
            "Scaling",
            f"max by (model, direction) ({changes}) > 0",
            color="blue",
            title="{{model}} {{direction}}",
        ),
    ]


def _marks(name: str, expression: str, *, color: str, title: str) -> dict[str, Any]:
    # The builder has no field for a title.
    return {
        "name": name,
        "datasource": PROMETHEUS.to_json(),
        "enable": True,
        "iconColor": color,
        "expr": expression,
        "titleFormat": title,
        "step": "60s",
    }
