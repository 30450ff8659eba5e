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
        plan: a `ModelPlan` as JSON.
        spec: a `ScalingSpec` as JSON.
    """

    def __init__(self, model: str, plan: dict[str, Any], spec: dict[str, Any]) -> None:
        self._scaler = ModelScaler(model, plan, spec)

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Replicas of the deployment, and no state for Serve to keep."""
        return self._scaler.decide(context), {}


class FleetScaling:
    """Scales the deployments of one application, as Serve's declarative configuration has it.

    Args:
        models: by deployment the model's name and its `ModelPlan` as JSON, as `model` and `plan`.
        spec: a `ScalingSpec` as JSON.
    """

    def __init__(self, models: dict[str, dict[str, Any]], spec: dict[str, Any]) -> None:
        self._scalers = {
            deployment: ModelScaler(entry["model"], entry["plan"], spec)
            for deployment, entry in models.items()
        }

    def __call__(self, contexts: dict[Any, Any]) -> tuple[dict[Any, int], dict[Any, Any]]:
        """Replicas by deployment; those of no model are left alone."""
        decided = {
            deployment: self._scalers[deployment.name].decide(context)
            for deployment, context in contexts.items()
            if deployment.name in self._scalers
        }
        return decided, {}
