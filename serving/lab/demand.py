"""What is asked of a fleet over time: traces read, scaled and made up."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import ConfigError
from serving.lab.replay import Floats, Ints

_JITTER_S = 5.0
_NEIGHBOURS = 25
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests in order of arrival, [num_requests] each; times in seconds from the first."""

    at_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints

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
    """A trace in the format `azure`, `mooncake` or `galerne`.

    Raises:
        ConfigError: the file cannot be read, or a line has another format.
    """
    try:
        with path.open(newline="") as lines:
            rows = [row for row in _ROWS[format_](lines) if row[1] > 0]
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}", code="trace_unreadable", param="--trace"
        ) from error
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} is no trace of the format {format_}: {error!r}",
            code="trace_unreadable",
            param="--format",
            hint=f"--format is one of {', '.join(FORMATS)}",
        ) from error
    if not rows:
        raise ConfigError(f"{path} has no requests", code="trace_empty", param="--trace")
    rows.sort(key=lambda row: row[0])
    at_s = np.array([row[0] for row in rows])
    return Demand(
        at_s - at_s[0],
        np.array([row[1] for row in rows], dtype=np.int64),
        np.array([max(row[2], 1) for row in rows], dtype=np.int64),
    )


_Row = tuple[float, int, int]


def _azure(lines: Iterator[str]) -> Iterator[_Row]:
    """Azure's LLM inference traces: `TIMESTAMP,ContextTokens,GeneratedTokens`, with seven digits of
    a second.

    Source: Azure/AzurePublicDataset, 2023; Patel et al., "Splitwise", ISCA 2024.
    """
    reader = csv.DictReader(lines)
    if reader.fieldnames and "TIMESTAMP" not in reader.fieldnames:
        raise KeyError("TIMESTAMP")
    for row in reader:
        whole, _, fraction = row["TIMESTAMP"].partition(".")
        at_s = datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")
        yield at_s, int(row["ContextTokens"]), int(row["GeneratedTokens"])


def _mooncake(lines: Iterator[str]) -> Iterator[_Row]:
    """JSON lines with `timestamp` in ms, `input_length` and `output_length`.

    Source: kvcache-ai/Mooncake, FAST'25 release.
    """
    for row in _json(lines):
        yield row["timestamp"] / 1000, int(row["input_length"]), int(row["output_length"])


def _galerne(lines: Iterator[str]) -> Iterator[_Row]:
    """JSON lines with `at_s`, `prompt_tokens` and `output_tokens`."""
    for row in _json(lines):
        yield float(row["at_s"]), int(row["prompt_tokens"]), int(row["output_tokens"])


def _json(lines: Iterator[str]) -> Iterator[Mapping[str, Any]]:
    return (json.loads(line) for line in lines if line.strip())


_ROWS: Mapping[str, Callable[[Iterator[str]], Iterator[_Row]]] = {
    "azure": _azure,
    "mooncake": _mooncake,
    "galerne": _galerne,
}
FORMATS = tuple(_ROWS)


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
