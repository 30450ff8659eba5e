"""Arrival processes as a document or the command line names them.

    {process: constant, rate: 10}                     constant:10
    {process: poisson, rate: 5}                       poisson:5
    {process: gamma, rate: 5, cv: 2.5}                gamma:5:2.5
    {process: ramp, start_rate: 1, end_rate: 20}      ramp:1:20
    {process: step, steps: [[5, 60], [50, 30]]}       step:5x60,50x30
    {process: trace, path: day.jsonl, format: mooncake, speed: 2, limit: 1000}

Rates are sessions a second. All but `step` and `trace` last as long as the workload. `times` are
the arrivals before `duration_s`, and `expected` is how many there are on average.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from loadtest.workload import arrivals
from loadtest.workload.arrivals import Floats
from serving.errors import ConfigError
from serving.lab.traces import Trace, TraceFormat, read_trace

FOLDER = "folder"
"""Key of the validation context: where relative paths of a document begin."""

_MAX_RATE = 1_000_000.0
Rate = Annotated[float, Field(ge=0, le=_MAX_RATE, allow_inf_nan=False)]
PositiveRate = Annotated[float, Field(gt=0, le=_MAX_RATE, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Process(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @property
    def lasts_s(self) -> float | None:
        """How long it lasts of itself; `None`: as long as it is let."""
        return None


class _Steady(_Process):
    rate: PositiveRate

    @property
    def peak_rate(self) -> float:
        return self.rate

    def expected(self, *, duration_s: float, rate_scale: float) -> float:
        return self.rate * rate_scale * duration_s


class Constant(_Steady):
    """Arrivals at equal distances."""

    process: Literal["constant"] = "constant"

    def times(self, _rng: np.random.Generator, *, duration_s: float, rate_scale: float) -> Floats:
        return arrivals.constant(rate=self.rate * rate_scale, duration_s=duration_s)


class Poisson(_Steady):
    """Independent arrivals."""

    process: Literal["poisson"] = "poisson"

    def times(self, rng: np.random.Generator, *, duration_s: float, rate_scale: float) -> Floats:
        return arrivals.poisson(rng, rate=self.rate * rate_scale, duration_s=duration_s)


class Gamma(_Steady):
    """Arrivals in bursts."""

    process: Literal["gamma"] = "gamma"
    cv: float = Field(gt=0.01, le=100)
    """Standard deviation of the gaps over their mean: 1 is Poisson, above it bursts."""

    def times(self, rng: np.random.Generator, *, duration_s: float, rate_scale: float) -> Floats:
        rate = self.rate * rate_scale
        return arrivals.gamma(rng, rate=rate, cv=self.cv, duration_s=duration_s)


class Ramp(_Process):
    """Poisson arrivals whose rate changes from the workload's beginning to its end."""

    process: Literal["ramp"] = "ramp"
    start_rate: Rate
    end_rate: Rate

    @model_validator(mode="after")
    def _has_arrivals(self) -> Self:
        if self.start_rate == self.end_rate == 0:
            raise ValueError("start_rate: with end_rate it is 0, so that nothing would be sent")
        return self

    @property
    def peak_rate(self) -> float:
        return max(self.start_rate, self.end_rate)

    def expected(self, *, duration_s: float, rate_scale: float) -> float:
        return (self.start_rate + self.end_rate) / 2 * rate_scale * duration_s

    def times(self, rng: np.random.Generator, *, duration_s: float, rate_scale: float) -> Floats:
        start, end = self.start_rate * rate_scale, self.end_rate * rate_scale
        return arrivals.ramp(rng, start_rate=start, end_rate=end, duration_s=duration_s)


class Step(_Process):
    """Poisson arrivals at one rate after another; a spike is a high step between two low ones."""

    process: Literal["step"] = "step"
    steps: tuple[tuple[Rate, PositiveSeconds], ...] = Field(min_length=1)
    """[(sessions a second, seconds)]."""

    @model_validator(mode="after")
    def _has_arrivals(self) -> Self:
        if not any(rate for rate, _ in self.steps):
            raise ValueError("steps: all rates are 0, so that nothing would be sent")
        return self

    @property
    def peak_rate(self) -> float:
        return max(rate for rate, _ in self.steps)

    @property
    def lasts_s(self) -> float:
        return sum(seconds for _, seconds in self.steps)

    def expected(self, *, duration_s: float, rate_scale: float) -> float:
        begins_s = accumulate((seconds for _, seconds in self.steps), initial=0.0)
        return rate_scale * sum(
            rate * min(seconds, max(duration_s - begin_s, 0.0))
            for (rate, seconds), begin_s in zip(self.steps, begins_s, strict=False)
        )

    def times(self, rng: np.random.Generator, *, duration_s: float, rate_scale: float) -> Floats:
        steps = [(rate * rate_scale, seconds) for rate, seconds in self.steps]
        times_s = arrivals.step(rng, steps)
        return times_s[times_s < duration_s]


class Replay(_Process):
    """The requests of a trace, when they came and as long as they were."""

    process: Literal["trace"] = "trace"
    path: Path
    """A relative one begins where the document is."""
    format: TraceFormat
    speed: float = Field(1.0, gt=0, allow_inf_nan=False)
    """How many times as fast as in the file the time runs."""
    limit: int | None = Field(None, ge=1)
    """How many requests to take; `None`: all."""

    @field_validator("path")
    @classmethod
    def _begins_at_the_document(cls, path: Path, info: ValidationInfo) -> Path:
        folder: Path = (info.context or {}).get(FOLDER, Path())
        return folder / path

    @cached_property
    def trace(self) -> Trace:
        """The file, read once.

        Raises:
            ConfigError: it is no trace of this format.
        """
        return read_trace(self.path, self.format, speed=self.speed, limit=self.limit)

    @property
    def digest(self) -> str:
        """The file's SHA-256, in hex.

        Raises:
            ConfigError: it cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ConfigError(
                f"the trace {self.path} cannot be read: {error.strerror}", code="trace_unreadable"
            ) from error

    @property
    def lasts_s(self) -> float:
        return self.trace.requests[-1].at_s

    def expected(self, *, duration_s: float, rate_scale: float) -> float:
        return bisect_left(
            self.trace.requests, duration_s * rate_scale, key=lambda request: request.at_s
        )

    def times(self, _rng: np.random.Generator, *, duration_s: float, rate_scale: float) -> Floats:
        times_s = np.array([request.at_s for request in self.trace.requests]) / rate_scale
        return times_s[times_s < duration_s]


def _from_text(value: Any) -> Any:
    """The document that a short text stands for; anything else as it is.

    >>> _from_text("step:5x60,50x30")
    {'process': 'step', 'steps': [['5', '60'], ['50', '30']]}
    """
    if not isinstance(value, str):
        return value
    process, *values = value.split(":")
    fields = _TEXTS.get(process)
    if fields is None or len(values) != len(fields):
        known = ", ".join(f"{name}:{':'.join(map(str.upper, of))}" for name, of in _TEXTS.items())
        raise ValueError(f"{value!r} is no arrival process; write one of {known}")
    if process == "step":
        return {"process": process, "steps": [step.split("x") for step in values[0].split(",")]}
    return {"process": process, **dict(zip(fields, values, strict=True))}


_TEXTS = {
    "constant": ("rate",),
    "poisson": ("rate",),
    "gamma": ("rate", "cv"),
    "ramp": ("start_rate", "end_rate"),
    "step": ("rate x seconds, …",),
}

Process = Constant | Poisson | Gamma | Ramp | Step | Replay
Arrivals = Annotated[
    Annotated[Process, Field(discriminator="process")], BeforeValidator(_from_text)
]
"""An arrival process in a document, or its short text."""
