"""What is asked of a run: limits that one request keeps, and limits of all of them together.

For example:

    request: {ttft_ms: 2000, itl_ms: 200}
    percentiles: {ttft_ms: {p99: 1500}}
    goodput_rps: 20
    traffic:
      batch:
        request: {latency_ms: 60000}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from loadtest.documents import read_document

DEFAULT_FAILED_RATIO = 0.01

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
_Ratio = Annotated[float, Field(ge=0, le=1, strict=True)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        asked = (getattr(self, name) for name in self.model_fields_set)
        if all(value is None or value == {} for value in asked):
            raise ValueError(f"no limit is set; known here: {', '.join(type(self).model_fields)}")
        return self

    def limits(self) -> Iterator[tuple[str, float]]:
        """Each limit that is set, by its name."""
        for name in type(self).model_fields:
            if isinstance(limit := getattr(self, name), float):
                yield name, limit


class RequestLimits(_Section):
    """What one request keeps, in ms; `None` is no limit.

    The time to the first token, the mean time per further token, the longest gap between two parts
    of the answer, and the time to its end. Only the last concerns a request that is not streamed.
    A request of one token has no time per further token, and one whose answer came in one part no
    gap: what is not there keeps its limit.
    """

    ttft_ms: _Positive | None = None
    tpot_ms: _Positive | None = None
    itl_ms: _Positive | None = None
    latency_ms: _Positive | None = None


class Quantiles(_Section):
    """The most that quantiles of one metric may be, in ms; `None` is no limit."""

    p50: _Positive | None = None
    p90: _Positive | None = None
    p95: _Positive | None = None
    p99: _Positive | None = None
    max: _Positive | None = None

    @model_validator(mode="after")
    def _rise(self) -> Self:
        for (low, low_ms), (high, high_ms) in pairwise(self.limits()):
            if high_ms < low_ms:
                raise ValueError(
                    f"{high} is at least {low}, so that its limit of {high_ms:g} is also one of "
                    f"{low}; raise it, or leave out {low}"
                )
        return self


class Percentiles(_Section):
    """Quantiles of completed requests: of all gaps of all streams for `itl_ms`, else one value for
    each request. `None` is no limit."""

    ttft_ms: Quantiles | None = None
    tpot_ms: Quantiles | None = None
    itl_ms: Quantiles | None = None
    latency_ms: Quantiles | None = None


class Limits(_Section):
    """What is asked of a run, or of one part of the workload.

    `attainment_ratio` is the least share of the requests that keep `request`; those that the
    workload cancels are left out, failed ones count as not keeping it. `failed_ratio` is the
    greatest share that may fail, `None` any: unlike the others it is asked unless told otherwise,
    because a server that refuses whatever would take long keeps every percentile. `goodput_rps` and
    `output_tokens_per_s` are the least.
    """

    request: RequestLimits | None = None
    attainment_ratio: Annotated[_Ratio, Field(gt=0)] = 0.99
    percentiles: Percentiles | None = None
    failed_ratio: _Ratio | None = DEFAULT_FAILED_RATIO
    goodput_rps: _Positive | None = None
    output_tokens_per_s: _Positive | None = None

    @model_validator(mode="after")
    def _attains_what_is_asked(self) -> Self:
        if "attainment_ratio" in self.model_fields_set and self.request is None:
            raise ValueError(
                "attainment_ratio is the share of requests that keep `request`: set limits there"
            )
        return self


class Slo(Limits):
    """A whole file. `traffic` asks the same of parts of the workload, by name.

    Each request has one set of limits: its part's `request` where that is given, else that of the
    whole. So the goodput of all is the sum of the parts'.
    """

    traffic: Mapping[str, Limits] = {}

    def request_limits(self, traffic: str) -> RequestLimits | None:
        """What a request of this part of the workload must keep to count as good."""
        part = self.traffic.get(traffic)
        return part.request if part and part.request else self.request


def read_slo(path: Path) -> Slo:
    """The SLO of a YAML or JSON file.

    Raises:
        ConfigError: it cannot be read, is empty, or asks for what cannot be.
    """
    return read_document(path, Slo, what="slo")
