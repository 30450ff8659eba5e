"""What is asked of a fleet over time: of a trace, scaled, or made up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.lab.replay import Floats, Ints
from serving.lab.traces import read_trace

_JITTER_S = 5.0
_NEIGHBOURS = 25
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests in order of arrival, [num_requests] each; times in seconds from the first.
    `num_dropped` of the trace were left out, as `Trace` says."""

    at_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    num_dropped: int = 0

    @property
    def span_s(self) -> float:
        """From the first request to the last, in whole seconds, at least one."""
        return float(math.ceil(self.at_s[-1])) + 1.0 if self.at_s.size else 1.0

    def work_s(self, prompt_token_s: float, output_token_s: float) -> Floats:
        """[num_requests]: seconds of a replica that each request takes."""
        return self.prompt_tokens * prompt_token_s + self.output_tokens * output_token_s

    def scaled(self, factor: float, rng: np.random.Generator) -> Demand:
        """As if `factor` times as many had come: each request comes so many times on average,
        within some seconds of its own time and as long as one of its neighbours. So bursts stay
        what they are, and no request becomes a burst of its own."""
        whole, rest = divmod(factor, 1.0)
        copies = np.full(self.at_s.size, int(whole)) + (rng.random(self.at_s.size) < rest)
        origin = np.repeat(np.arange(self.at_s.size), copies)
        at_s = self.at_s[origin] + rng.uniform(-_JITTER_S, _JITTER_S, origin.size)
        at_s = np.clip(at_s, 0.0, self.at_s[-1])
        order = np.argsort(at_s, kind="stable")
        like = origin + rng.integers(-_NEIGHBOURS, _NEIGHBOURS + 1, origin.size)
        like = np.clip(like, 0, self.at_s.size - 1)[order]
        return Demand(at_s[order], self.prompt_tokens[like], self.output_tokens[like])


def read_demand(path: Path, format_: str) -> Demand:
    """What a trace asks for.

    Raises:
        ConfigError: as `read_trace`.
    """
    trace = read_trace(path, format_)
    return Demand(
        np.array([request.at_s for request in trace.requests]),
        np.array([request.prompt_tokens for request in trace.requests], dtype=np.int64),
        np.array([request.output_tokens for request in trace.requests], dtype=np.int64),
        trace.num_dropped,
    )


def bursty_day(rng: np.random.Generator, *, hours: float = 24.0, per_s: float = 1.0) -> Demand:
    """A day of an office's chat service: a working day's curve, and bursts upon it that come within
    half a minute, last some minutes and up to double it.

    Arrivals are Poisson for a rate that changes every second; lengths are log-normal with the
    quartiles of Azure's conversation trace of 2023.

    Args:
        per_s: mean rate at the height of the day, bursts apart.
    """
    seconds = np.arange(int(hours * 3600))
    time_of_day = seconds * (24.0 / hours) / _DAY_S * 2 * math.pi
    shape = 0.15 + 0.85 * np.clip(-np.cos(time_of_day), 0.0, None) ** 0.7
    rate = per_s * shape * (1.0 + _bursts(rng, seconds.size))
    counts = rng.poisson(rate)
    at_s = np.sort(np.repeat(seconds, counts) + rng.random(int(counts.sum())))
    prompt = rng.lognormal(math.log(1020), 0.95, at_s.size)
    output = rng.lognormal(math.log(150), 0.85, at_s.size)
    return Demand(
        at_s - at_s[0],
        np.clip(prompt, 16, 14_000).astype(np.int64),
        np.clip(output, 1, 1000).astype(np.int64),
    )


def _bursts(rng: np.random.Generator, num_seconds: int) -> Floats:
    """[num_seconds]: what bursts add, as a share of the rate; one in twenty minutes on average."""
    extra = np.zeros(num_seconds)
    at = 0.0
    while (at := at + rng.exponential(1200.0)) < num_seconds:
        height, rise_s = rng.uniform(0.2, 1.0), rng.uniform(5.0, 30.0)
        lasts_s = rng.uniform(60.0, 480.0)
        since = np.arange(num_seconds - int(at))
        rising, falling = np.clip(since / rise_s, 0, 1), np.clip((lasts_s - since) / 30 + 1, 0, 1)
        extra[int(at) :] = np.maximum(extra[int(at) :], height * rising * falling)
    return extra
