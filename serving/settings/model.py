"""One model behind the endpoint."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from serving.settings.engine import EngineSettings, ResourceSettings
from serving.settings.routing import RoutingSettings
from serving.settings.scaling import ScalingSettings, SloSettings
from serving.settings.section import ModelName, Section
from serving.settings.simulator import SimulatorSettings
from serving.settings.weights import WeightSettings


class ModelSettings(Section):
    """One model behind the endpoint."""

    weights: WeightSettings | None = None
    """The model's files. Required, but for a simulated engine, which takes its tokenizer and chat
    template from them if they are given."""
    simulator: SimulatorSettings | None = None
    """Simulate the engine instead of running vLLM."""
    replicas: int = Field(1, ge=1, le=1024)
    """Engine replicas; with `scaling`, those of the first start."""
    scaling: ScalingSettings | None = None
    """Let load decide the number of replicas; `None` keeps `replicas`."""
    slo: SloSettings = SloSettings()
    adapters: dict[ModelName, Path] = Field(default_factory=dict)
    """LoRA adapters by the name clients put in `model`, each a local folder."""
    engine: EngineSettings = EngineSettings()
    resources: ResourceSettings = ResourceSettings()
    routing: RoutingSettings = RoutingSettings()
    max_concurrent_requests: int | None = Field(None, ge=1)
    """Requests one replica accepts at once, waiting ones included; others wait in gateways for
    whichever replica has room first. `None`: 9/8 of `engine.max_num_seqs`, so that an engine always
    has a next request at hand, and few wait where tenants and deadlines do not count."""
    drain_timeout_s: float = Field(600.0, ge=0)
    """How long a replica that was told to stop may finish its streams."""

    @model_validator(mode="after")
    def _has_a_model_to_run(self) -> Self:
        if self.weights is None and self.simulator is None:
            raise ValueError("weights is missing: where the model's files come from")
        return self

    @model_validator(mode="after")
    def _capacity_is_known(self) -> Self:
        if self.scaling and self.scaling.capacity is None and self.simulator is None:
            raise ValueError(
                "scaling.capacity is missing: `galerne sim calibrate` measures the engine, "
                "`galerne lab capacity` makes it a capacity"
            )
        return self

    @property
    def request_limit(self) -> int:
        """`max_concurrent_requests`, or what stands for `None`.

        >>> ModelSettings.model_validate({"weights": {"source": "demo"}}).request_limit
        288
        """
        return self.max_concurrent_requests or math.ceil(self.engine.max_num_seqs * 9 / 8)

    @property
    def num_gpus(self) -> int:
        """GPUs of one replica."""
        if self.resources.device == "cpu":
            return 0
        return self.engine.num_gpus
