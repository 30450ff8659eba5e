"""The JSON schema of the chart's values: `schema()`."""

from __future__ import annotations

from typing import Any

from k8s.chart.values import ChartValues

_OWNED = {"endpoint": "EndpointSettings", "cluster": "ClusterSettings"}
"""Sections of the settings that the chart decides on, with the names of their models."""
_NEEDS_WHEN_ENABLED = {"Ingress": ("host", "tlsSecret")}


def schema() -> dict[str, Any]:
    """What Helm checks values against, after it has merged them into the defaults."""
    document = ChartValues.model_json_schema(mode="validation")
    definitions = document["$defs"]
    for section, definition in _OWNED.items():
        del definitions["Settings"]["properties"][section], definitions[definition]
    # Without settings the trial's are taken.
    document["properties"]["settings"] = {
        "type": "object",
        "if": {"minProperties": 1},
        "then": {"$ref": "#/$defs/Settings"},
    }
    for definition, names in _NEEDS_WHEN_ENABLED.items():
        definitions[definition] |= {
            "if": {"properties": {"enabled": {"const": True}}},
            "then": {"properties": {name: {"minLength": 1} for name in names}},
        }
    definitions["HttpRoute"] |= {
        "if": {"properties": {"enabled": {"const": True}}},
        "then": {"properties": {"parentRefs": {"minItems": 1}}},
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document}
