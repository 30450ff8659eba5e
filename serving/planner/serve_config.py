"""The platform as Ray Serve's declarative configuration: KubeRay's `serveConfigV2`. Pure.

What replicas are built from goes into `args`, whose change replaces them; how many there are goes
into `deployments`, which Serve changes in place (ADR 16). The functions work on settings as a JSON
document, in which what is not set is left out. The Helm chart renders the same from its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

APP_NAME = "galerne"
GATEWAY = "gateway"
"""The Serve deployment of the gateways."""
PORT = 8000
"""Of the endpoint, on every node."""

POLICY = "serving.serve_scaling:ModelScaling"
_NOT_OF_ENGINES = frozenset({"replicas", "scaling", "routing", "slo"})
"""Gateways route and count, the controller scales: neither restarts an engine."""

ROOT = "root"
"""The deployment that Serve takes for a model's application; it has no replica."""
_ENGINE = "engine:"

Document = Mapping[str, Any]


def engine_name(model: str) -> str:
    """The Serve deployment of a model, and the application it is in.

    >>> engine_name("mistral-7b")
    'engine:mistral-7b'
    """
    return f"{_ENGINE}{model}"


def is_ours(application: str) -> bool:
    """Whether an application of Serve's is part of the platform.

    >>> is_ours("engine:mistral-7b"), is_ours("galerne"), is_ours("something-else")
    (True, True, False)
    """
    return application == APP_NAME or application.startswith(_ENGINE)


def serve_config(settings: Document, *, settings_file: str) -> dict[str, Any]:
    """The whole configuration.

    Args:
        settings: the settings tree.
        settings_file: where the controller finds the same tree.
    """
    gateways = {
        "name": APP_NAME,
        "route_prefix": "/",
        "import_path": "serving.declared:gateways",
        "args": {"settings": gateway_part(settings)},
        "deployments": [
            {"name": GATEWAY, "num_replicas": settings.get("gateway", {}).get("replicas", 1)}
        ],
    }
    models = [
        {
            "name": engine_name(name),
            "route_prefix": None,
            "import_path": "serving.declared:model",
            "args": {"name": name, "settings": engine_part(model)},
            "deployments": [
                {"name": engine_name(name), **_number(name, model, settings_file=settings_file)}
            ],
        }
        for name, model in sorted(settings["models"].items())
    ]
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": PORT},  # noqa: S104 (a pod's only address)
        "applications": [gateways, *models],
    }


def engine_part(model: Document) -> dict[str, Any]:
    """What a model's engines are built from."""
    return {key: value for key, value in model.items() if key not in _NOT_OF_ENGINES}


def gateway_part(settings: Document) -> dict[str, Any]:
    """What gateways are built from: of scaling, only whether and how they wait for a first replica.

    >>> gateway_part({"models": {"a": {"replicas": 3, "scaling": {"max_replicas": 9}}}})
    {'models': {'a': {'scaling': {'min_replicas': 1, 'max_replicas': 1}}}}
    """
    models = {name: _gateway_model(model) for name, model in settings["models"].items()}
    parts: dict[str, Any] = {"models": models}
    if "tenancy" in settings:
        parts["tenancy"] = settings["tenancy"]
    if gateway := {key: v for key, v in settings.get("gateway", {}).items() if key != "replicas"}:
        parts["gateway"] = gateway
    return parts


def _gateway_model(model: Document) -> dict[str, Any]:
    part = {key: value for key, value in model.items() if key not in ("replicas", "scaling")}
    scaling = model.get("scaling")
    if scaling is not None:
        kept = {key: scaling[key] for key in ("wake_wait_s", "capacity") if key in scaling}
        lowest = min(scaling.get("min_replicas", 1), 1)
        part["scaling"] = {"min_replicas": lowest, "max_replicas": 1, **kept}
    return part


def _number(name: str, model: Document, *, settings_file: str) -> dict[str, Any]:
    """How many replicas, or who decides that."""
    scaling = model.get("scaling")
    if scaling is None:
        return {"num_replicas": model.get("replicas", 1)}
    return {
        "autoscaling_config": {
            "min_replicas": scaling.get("min_replicas", 1),
            "max_replicas": scaling["max_replicas"],
            **POLICY_DELAYS,
            "policy": policy(name, settings_file=settings_file),
        }
    }


POLICY_DELAYS = {"upscale_delay_s": 0, "downscale_delay_s": 0, "downscale_to_zero_delay_s": 0}
"""The policy has its own patience."""


def policy(model: str, *, settings_file: str) -> dict[str, Any]:
    """The scaling policy as Serve is told of it, whatever the plan, which is in the file."""
    return {
        "policy_function": POLICY,
        "policy_kwargs": {"model": model, "settings_file": settings_file},
    }
