"""What users are promised, and how many replicas keep it."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from serving.settings.section import Section


class SloSettings(Section):
    """What a model's users are promised; counted by gateways, kept by the scaling policy."""

    ttft_s: float = Field(2.0, gt=0, le=3600)
    """Longest good time to the first token of a stream, in seconds."""
    itl_s: float = Field(0.08, gt=0, le=3600)
    """Longest good time between two parts of a stream, in seconds."""
    objective_ratio: float = Field(0.99, gt=0, lt=1)
    """Share of first tokens, and of times between tokens, that are to be good."""


class CapacitySettings(Section):
    """What one replica can do within the SLO; `galerne lab capacity` prints it."""

    prompt_token_s: float = Field(gt=0, le=60)
    """Seconds of a replica that one token of a prompt takes."""
    output_token_s: float = Field(gt=0, le=60)
    """Seconds of a replica that one token of an answer takes beside the others of its step."""
    usable_ratio: float = Field(0.8, gt=0, le=1)
    """Share of a large fleet's time that may be taken so."""
    spread: float = Field(0.5, ge=0, le=10)
    """Replicas that random arrivals call for beside that, times the root of the busy ones."""


class ScalingSettings(Section):
    """How many replicas a model has, decided every five seconds; `galerne lab scaling` tries it."""

    min_replicas: int = Field(1, ge=0, le=1024)
    """Never fewer. 0 lets an unused model have none: the next request waits for a cold start."""
    max_replicas: int = Field(ge=1, le=1024)
    """Never more."""
    spares: int = Field(0, ge=0, le=64)
    """Replicas kept ready beyond those that are needed."""
    max_step: int = Field(64, ge=1, le=1024)
    """At most so many more at once."""
    cold_start_s: float = Field(120.0, gt=0, le=7200)
    """From a replica's order until it is ready, in seconds; until the platform has seen its own."""
    quantile: float = Field(0.85, ge=0, le=1)
    """Caution: how often the forecast of demand shall be enough. More costs replicas."""
    idle_s: float = Field(900.0, gt=0)
    """Seconds without a request after which the last replica goes, if `min_replicas` is 0."""
    wake_wait_s: float = Field(300.0, ge=0, le=3600)
    """How long a request waits for a model that has none, in seconds, before it gets 503. SDKs
    wait 600 s by default."""
    floors: dict[str, int] = Field(default_factory=dict)
    """Fewest replicas while tenants of a class (`tenancy.classes`) use the model: so many from the
    class's first request until a quarter of an hour after its last."""
    capacity: CapacitySettings | None = None
    """What one replica can do. Required, but for a simulated engine, whose timing says it."""

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas ({self.min_replicas}) is above max_replicas ({self.max_replicas})"
            )
        if self.spares > self.max_replicas:
            raise ValueError(f"spares ({self.spares}) is above max_replicas ({self.max_replicas})")
        for name, floor in self.floors.items():
            if not 1 <= floor <= self.max_replicas:
                raise ValueError(f"floors.{name} must be 1 to max_replicas ({self.max_replicas})")
        return self


class AutoscalerSettings(Section):
    """What the scaling of all models has in common."""

    prometheus_url: str | None = Field(None, pattern=r"^https?://[^@/]+(/[^@]*)?$")
    """Prometheus that scrapes this platform, and no other one with models of the same names, for
    example `http://127.0.0.1:9090`. `None` takes the environment's `RAY_PROMETHEUS_HOST`; without
    either, replicas' own reports decide, which know no latencies and no tenants. The variable
    `RAY_PROMETHEUS_HEADERS` holds headers for it, as a JSON object."""
    gpu_budget: int | None = Field(None, ge=1)
    """GPUs that all scaled models may hold together; when they want more, those with the greatest
    need and the worst latencies come first. `None` leaves the limit to the cluster."""
