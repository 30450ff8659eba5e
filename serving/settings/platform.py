"""The whole platform: the root of the tree."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from serving.settings.gateway import EndpointSettings, GatewaySettings
from serving.settings.model import ModelSettings
from serving.settings.scaling import AutoscalerSettings
from serving.settings.section import ModelName, Section


class ClusterSettings(Section):
    """The Ray cluster underneath."""

    address: str | None = None
    """Address of a running Ray cluster; `None` starts one on this machine that lives and dies
    with `galerne up`."""
    worker_niceness: int = Field(0, ge=0, le=19)
    """Scheduling niceness of Ray workers on a local cluster. Ray's default of 15 starves CPU
    engines beside any other busy process."""
    ready_timeout_s: float = Field(900.0, gt=0)
    """How long `galerne up` waits for every replica, and `galerne apply` for the next one, in
    seconds; covers a weight download."""


class PlannerSettings(Section):
    """What `galerne plan` reckons with."""

    gpu_prices: dict[str, float] = Field(default_factory=dict)
    """Price of one GPU for an hour, in any currency, by the GPU's name in `galerne plan`, for
    example `{H100-80G: 2.5}`. Without one a plan names no cost."""

    @model_validator(mode="after")
    def _prices_are_positive(self) -> Self:
        for gpu, price in self.gpu_prices.items():
            if not 0 < price < float("inf"):
                raise ValueError(f"gpu_prices.{gpu} must be above 0")
        return self


class TenancySettings(Section):
    """Who shares what."""

    cache_groups: dict[str, list[str]] = Field(default_factory=dict)
    """Tenants (names of API keys) that share cached prompts, by the name of their group. Others
    share with nobody: who can tell a cached prompt from a new one by its speed could guess what
    others have asked."""
    classes: dict[str, list[str]] = Field(default_factory=dict)
    """Tenants by class; `scaling.floors` of a model promises replicas to a class. Others are of no
    class."""

    @model_validator(mode="after")
    def _a_tenant_is_in_one_of_each(self) -> Self:
        for field in ("cache_groups", "classes"):
            tenants = [tenant for group in getattr(self, field).values() for tenant in group]
            if twice := [tenant for tenant in tenants if tenants.count(tenant) > 1]:
                raise ValueError(f"{field}: {twice[0]!r} is listed twice; a tenant has one")
        return self


class Settings(Section):
    """The whole platform."""

    endpoint: EndpointSettings = EndpointSettings()
    cluster: ClusterSettings = ClusterSettings()
    gateway: GatewaySettings = GatewaySettings()
    tenancy: TenancySettings = TenancySettings()
    autoscaler: AutoscalerSettings = AutoscalerSettings()
    planner: PlannerSettings = PlannerSettings()
    models: dict[ModelName, ModelSettings] = Field(min_length=1)
    """Models by the name clients put in `model`."""

    @model_validator(mode="after")
    def _served_names_are_unique(self) -> Self:
        seen = set(self.models)
        for model_id, model in self.models.items():
            for adapter in model.adapters:
                if adapter in seen:
                    raise ValueError(
                        f"models.{model_id}.adapters.{adapter}: the name {adapter!r} is taken; "
                        "served names must be unique over models and adapters"
                    )
                seen.add(adapter)
        return self

    @model_validator(mode="after")
    def _floors_are_of_known_classes(self) -> Self:
        for model_id, model in self.models.items():
            for name in model.scaling.floors if model.scaling else ():
                if name not in self.tenancy.classes:
                    raise ValueError(
                        f"models.{model_id}.scaling.floors.{name}: tenancy.classes has no {name!r}"
                    )
        return self

    @model_validator(mode="after")
    def _least_replicas_fit_the_budget(self) -> Self:
        least = sum(
            model.num_gpus * model.scaling.min_replicas
            for model in self.models.values()
            if model.scaling
        )
        budget = self.autoscaler.gpu_budget
        if budget is not None and least > budget:
            raise ValueError(
                f"autoscaler.gpu_budget ({budget}) is less than min_replicas of all models take "
                f"({least})"
            )
        return self
