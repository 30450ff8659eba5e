"""The autoscaling policies that Ray Serve constructs in its controller: they only ask.

Serve pickles this module by value, so that its globals are copies and its classes have no home:
nothing here may hold state. What it imports is the process's own.
"""

from __future__ import annotations

from typing import Any

from serving.scaling_assembly import ModelScaler


class ModelScaling:
    """Scales one deployment.

    Args:
        model: the model's name.
        settings_file: the settings in force.
    """

    def __init__(self, model: str, settings_file: str) -> None:
        self._scaler = ModelScaler(model, settings_file)

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Replicas of the deployment, and no state for Serve to keep."""
        return self._scaler.decide(context), {}


class FleetScaling:
    """Scales the deployments of one application that holds several models, where Serve's
    declarative configuration gives it a policy.

    Args:
        models: the model's name by deployment.
        settings_file: the settings in force.
    """

    def __init__(self, models: dict[str, str], settings_file: str) -> None:
        self._scalers = {
            deployment: ModelScaler(model, settings_file) for deployment, model in models.items()
        }

    def __call__(self, contexts: dict[Any, Any]) -> tuple[dict[Any, int], dict[Any, Any]]:
        """Replicas by deployment; those of no model are left alone."""
        decided = {
            deployment: self._scalers[deployment.name].decide(context)
            for deployment, context in contexts.items()
            if deployment.name in self._scalers
        }
        return decided, {}
