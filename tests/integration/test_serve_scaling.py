"""The policies as Ray Serve's controller constructs, wraps and calls them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from ray.serve import autoscaling_policy as ray_policy
from ray.serve._private.common import DeploymentID
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from serving.adapters import autoscaler
from serving.adapters.autoscaler import Autoscaler, Fleet, ModelPlan, Shared
from serving.adapters.settings_file import write_settings
from serving.adapters.state_paths import StatePaths
from serving.scaling.guard import Trouble
from serving.scaling.signals import Replicas
from serving.scaling_assembly import autoscaling_options
from serving.settings.platform import Settings
from serving.settings.scaling import AutoscalerSettings

MODEL = "m"
DEPLOYMENT = DeploymentID(name="engine:m", app_name="galerne")
OTHER = DeploymentID(name="gateway", app_name="galerne")


def settings(**scaling: Any) -> Settings:
    model = {"simulator": {}, "resources": {"device": "cpu"}, "replicas": 3}
    model["scaling"] = {"max_replicas": 8, **scaling}
    return Settings.model_validate({"models": {MODEL: model}})


def context(*, target: int = 2, ready: int = 2, **more: Any) -> AutoscalingContext:
    values: dict[str, Any] = {
        "deployment_id": DEPLOYMENT,
        "deployment_name": DEPLOYMENT.name,
        "app_name": "galerne",
        "current_num_replicas": ready,
        "target_num_replicas": target,
        "running_replicas": [],
        "total_num_requests": 0.0,
        "total_queued_requests": 0.0,
        "aggregated_metrics": {},
        "raw_metrics": {},
        "capacity_adjusted_min_replicas": 0,
        "capacity_adjusted_max_replicas": 8,
        "policy_state": {},
        "last_scale_up_time": None,
        "last_scale_down_time": None,
        "current_time": 0.0,
        "config": AutoscalingConfig(
            min_replicas=0, max_replicas=8, upscale_delay_s=0, downscale_delay_s=0
        ),
    }
    return AutoscalingContext(**{**values, **more})


class Observed:
    """Counts troubles."""

    def __init__(self) -> None:
        self.troubles: list[Trouble] = []

    def decided(self, model: str, report: Any) -> None: ...

    def forgotten(self, model: str) -> None: ...

    def troubled(self, model: str, trouble: Trouble, times: int) -> None:
        self.troubles += [trouble] * times


class Decided(Autoscaler):
    """Decides as it is told, or fails."""

    def __init__(self, desired: int | Exception) -> None:
        self.observed = Observed()
        super().__init__(self, self.observed, budget=None)
        self._desired = desired
        self.asked: list[Replicas] = []
        self.plans: list[ModelPlan] = []

    def latest(self, *, now_s: float) -> dict[str, Any]:
        return {}

    def plan(self, name: str, plan: ModelPlan) -> None:
        self.plans.append(plan)

    def decide(self, name: str, fleet: Fleet) -> int:
        self.asked.append(fleet.replicas)
        if isinstance(self._desired, Exception):
            raise self._desired
        return self._desired


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a controller that has just started."""
    monkeypatch.setattr(autoscaler, "_shared", [])


def constructed(options: dict[str, Any]) -> Any:
    """The policy in the hands of Serve's controller: pickled, made, wrapped."""
    config = options["autoscaling_config"]
    cls = cloudpickle.loads(config.policy.get_serialized_policy_def())
    return ray_policy._apply_autoscaling_config(cls(**config.policy.policy_kwargs))


def share(desired: int | Exception) -> Decided:
    decided = Decided(desired)
    autoscaler.share_autoscaler(lambda: Shared(decided, "http://nowhere"))
    return decided


def options_of(tree: Settings, folder: Path, *, is_first: bool = True) -> dict[str, Any]:
    paths = StatePaths.of(folder, folder)
    (folder / "metrics-token").touch(0o600)
    (folder / "metrics-token").write_text("secret")
    write_settings(paths.settings_file, tree)
    return autoscaling_options(MODEL, tree.models[MODEL], paths, is_first=is_first)


@pytest.mark.parametrize(("target", "desired"), [(2, 5), (5, 2), (0, 1), (1, 0)])
def test_what_is_decided_passes_serve_at_once(tmp_path: Path, target: int, desired: int) -> None:
    decided = share(desired)
    policy = constructed(options_of(settings(min_replicas=0), tmp_path))
    assert policy(context(target=target, ready=target))[0] == desired
    assert decided.asked == [Replicas(target, target)]


def test_a_failure_keeps_the_replicas_and_is_counted(tmp_path: Path) -> None:
    decided = share(ZeroDivisionError("oh"))
    policy = constructed(options_of(settings(), tmp_path))
    assert policy(context(target=4))[0] == 4
    assert decided.observed.troubles == [Trouble.POLICY_FAILED]


def test_an_autoscaler_that_cannot_be_built_keeps_the_replicas(tmp_path: Path) -> None:
    """There is no token for its metrics; an exception would end the controller's round."""
    policy = constructed(options_of(settings(), tmp_path))
    (tmp_path / "metrics-token").unlink()
    assert policy(context(target=4))[0] == 4
    assert autoscaler.shared() is None


def test_one_policy_scales_a_whole_application(tmp_path: Path) -> None:
    """As Serve's declarative configuration has it, other deployments left alone."""
    decided = share(5)
    from serving.serve_scaling import FleetScaling

    tree = settings().model_copy(update={"autoscaler": AutoscalerSettings(gpu_budget=4)})
    write_settings(tmp_path / "settings.json", tree)
    policy = ray_policy._apply_app_level_autoscaling_config(
        FleetScaling({DEPLOYMENT.name: MODEL}, str(tmp_path / "settings.json"))
    )
    decisions, _ = policy({DEPLOYMENT: context(), OTHER: context(deployment_id=OTHER)})
    assert decisions == {DEPLOYMENT: 5}
    assert decided.budget == 4


def test_a_changed_plan_is_followed_and_a_broken_file_is_not(tmp_path: Path) -> None:
    """Nothing is deployed again for either."""
    decided = share(5)
    policy = constructed(options_of(settings(), tmp_path))
    assert policy(context())[0] == 5
    write_settings(tmp_path / "settings.json", settings(spares=2))
    policy(context())
    (tmp_path / "settings.json").write_text("{")
    assert policy(context())[0] == 5
    assert [plan.bounds.spares for plan in decided.plans] == [0, 2]


def test_what_is_declared_stays_the_same_whatever_the_plan(tmp_path: Path) -> None:
    """Serve replaces all engines when a policy's arguments change."""
    policies = [
        options_of(settings(**plan), tmp_path)["autoscaling_config"].policy
        for plan in ({}, {"max_replicas": 4, "spares": 1, "idle_s": 7})
    ]
    assert policies[0] == policies[1]


def test_a_running_deployment_keeps_its_replicas(tmp_path: Path) -> None:
    """Serve would go back to the initial ones whenever settings change."""
    first = options_of(settings(), tmp_path)["autoscaling_config"]
    assert first.initial_replicas == 3
    again = options_of(settings(), tmp_path, is_first=False)["autoscaling_config"]
    assert again.initial_replicas is None
    bounded = options_of(settings(max_replicas=2), tmp_path)["autoscaling_config"]
    assert bounded.initial_replicas == 2


def test_without_scaling_the_number_is_fixed(tmp_path: Path) -> None:
    tree = Settings.model_validate({"models": {MODEL: {"simulator": {}, "replicas": 3}}})
    assert options_of(tree, tmp_path) == {"num_replicas": 3}
