"""The timing of a real engine, from a few short streams. Pure: who sends them is an argument.

Two kinds of probes on an otherwise idle engine: prompts of several lengths, of which the first
token is timed, and batches of streams, of which the gaps are timed while all of them decode.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, pairwise
from random import Random
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from serving.errors import ConfigError
from serving.settings.simulator import TimingSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

SendStream = Callable[[Sequence[int], int], Awaitable[Sequence[float]]]
"""Streams the answer to some prompt tokens, exactly so many tokens long. Gives, in seconds of one
clock: [1 + num_output_tokens], when the request was sent and when each token came."""

Tell = Callable[[str], None]

_PROMPT_SHARES = (1 / 16, 1 / 4, 1 / 2, 1, 3 / 2, 2, 3)
"""Prompt lengths in chunks: some fit one step, some take several."""
_BATCH_SIZES = (1, 2, 4, 8, 16)
_LONG_BATCH_SIZE = 8
_SHORT_PROMPT_TOKENS = 16
_LONG_PROMPT_TOKENS = 2048
_NUM_DECODED_TOKENS = 24
_PREFILL_REPEATS = 5
_DECODE_REPEATS = 2
_TOKEN_IDS = range(1000, 1900)
"""Ordinary words in every tokenizer: Mistral's newest keep the first 1000 ids for control."""
_P90 = 1.2815515655446004
"""The standard normal distribution's 0.9 quantile."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What the engine's step time depends on, as the engine was started."""

    chunk_tokens: int
    """`max_num_batched_tokens`: a longer prompt takes several steps."""
    window: int | None = None
    """Sliding attention window in tokens; `None` for full attention."""
    max_model_len: int | None = None
    """Tokens of the longest sequence; `None` where the engine does not tell."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Streams sent at once, alike but for their prompts' words."""

    num_streams: int
    num_prompt_tokens: int
    num_output_tokens: int
    """1 to time the first token, more to time the gaps after it."""

    @property
    def is_prefill(self) -> bool:
        """Whether the first token is what counts."""
        return self.num_output_tokens == 1

    @property
    def name(self) -> str:
        """For people.

        >>> Probe(8, 512, 32).name
        'ITL, 8 streams, 512 prompt tokens'
        """
        kind = "TTFT" if self.is_prefill else "ITL"
        return f"{kind}, {self.num_streams} streams, {self.num_prompt_tokens} prompt tokens"


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one probe brought, over its repeats: TTFTs or steady gaps, at least one."""

    probe: Probe
    seconds: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """What the model is fitted to."""
        return median(self.seconds)


@dataclass(frozen=True, slots=True)
class Calibration:
    """A timing, and for each measurement the seconds that the timing gives instead."""

    timing: TimingSettings
    measurements: tuple[Measurement, ...]
    modelled_s: tuple[float, ...]

    @property
    def worst_error_ratio(self) -> float:
        """The greatest deviation of the model from a measurement, over the measurement."""
        pairs = zip(self.measurements, self.modelled_s, strict=True)
        return max(abs(modelled / m.median_s - 1) for m, modelled in pairs)


def plan_probes(limits: EngineLimits) -> list[Probe]:
    """The probes that tell the parameters apart, short ones first.

    Raises:
        ConfigError: `calibration_degenerate`, sequences are too short for that.

    >>> [probe.num_prompt_tokens for probe in plan_probes(EngineLimits(256))][:7]
    [16, 64, 128, 256, 384, 512, 768]
    """
    longest = (limits.max_model_len or math.inf) - _NUM_DECODED_TOKENS
    lengths = sorted({max(int(limits.chunk_tokens * share), 2) for share in _PROMPT_SHARES})
    lengths = [length for length in lengths if length <= longest]
    long_batch = _long_batch(limits)
    if len(lengths) < 2 or long_batch.num_prompt_tokens < 4 * _SHORT_PROMPT_TOKENS:
        raise _degenerate("the engine's longest sequence leaves no room for long prompts")
    decodes = [Probe(b, _SHORT_PROMPT_TOKENS, _NUM_DECODED_TOKENS) for b in _BATCH_SIZES]
    return [*(Probe(1, length, 1) for length in lengths), *decodes, long_batch]


def _long_batch(limits: EngineLimits) -> Probe:
    """Streams with long prompts. The first generates while the others' prompts are read, a token in
    each step: so many more it needs for all of them to generate together.

    >>> _long_batch(EngineLimits(chunk_tokens=512))
    Probe(num_streams=8, num_prompt_tokens=2048, num_output_tokens=56)
    """
    steps_per_token = _LONG_BATCH_SIZE / limits.chunk_tokens
    left = (limits.max_model_len or math.inf) - _NUM_DECODED_TOKENS - 1
    fits = left / (1 + steps_per_token)
    prompt = int(min(limits.window or _LONG_PROMPT_TOKENS, _LONG_PROMPT_TOKENS, fits))
    num_steps = math.ceil(prompt * steps_per_token)
    return Probe(_LONG_BATCH_SIZE, prompt, num_steps + _NUM_DECODED_TOKENS)


async def run_probes(
    probes: Sequence[Probe], send: SendStream, *, rng: Random, tell: Tell
) -> list[Measurement]:
    """Every probe's measurement, after one prompt of each length to warm up.

    Repeats go round all probes, so that a slow drift of the machine falls on all of them.
    """
    seconds: dict[Probe, list[float]] = {probe: [] for probe in probes}
    for turn in range(_PREFILL_REPEATS + 1):
        for probe in probes:
            if not probe.is_prefill and not 1 <= turn <= _DECODE_REPEATS:
                continue
            tell(f"round {turn} of {_PREFILL_REPEATS}: {probe.name}" if turn else "warming up")
            found = await _measure(probe, send, rng)
            if turn:
                seconds[probe] += found
    return [Measurement(probe, tuple(found)) for probe, found in seconds.items()]


async def _measure(probe: Probe, send: SendStream, rng: Random) -> list[float]:
    # Random words, so that nothing hits the prefix cache.
    prompts = [rng.choices(_TOKEN_IDS, k=probe.num_prompt_tokens) for _ in range(probe.num_streams)]
    streams = await asyncio.gather(*(send(prompt, probe.num_output_tokens) for prompt in prompts))
    if probe.is_prefill:
        return [first - sent for sent, first in streams]
    return steady_gaps([times[1:] for times in streams])


def steady_gaps(streams: Sequence[Sequence[float]]) -> list[float]:
    """The gaps between tokens while every stream was generating; none computed a prompt then.

    >>> steady_gaps([[1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0]])
    [1.0, 1.0, 1.0, 1.0]
    """
    begin = max(times[0] for times in streams)
    end = min(times[-1] for times in streams)
    inside = ([at for at in times if begin <= at <= end] for times in streams)
    # Tokens that came in one chunk have no gap between them that would tell anything.
    return [later - at for times in inside for at, later in pairwise(times) if later > at]


def fit_timing(measurements: Sequence[Measurement], limits: EngineLimits) -> Calibration:
    """The timing that comes nearest to the medians: non-negative least squares of relative errors.

    TTFT is `overhead_s + ceil(prompt / chunk) * step_s + prompt / rate`; ITL is `step_s + streams *
    (decode_s_per_sequence + min(context, window) * attention_s_per_token)`.

    Raises:
        ConfigError: `calibration_degenerate`, the measurements do not tell the parameters apart.
    """
    import numpy as np

    if not all(m.seconds and m.median_s > 0 for m in measurements):
        raise _degenerate("a probe has brought nothing that could be timed")
    rows = np.array([_row(m.probe, limits) for m in measurements], dtype=float).reshape(-1, 5)
    medians = np.array([m.median_s for m in measurements])
    relative = rows / medians[:, None]
    scale = np.linalg.norm(relative, axis=0)
    if not scale.all() or np.linalg.matrix_rank(relative / scale) < rows.shape[1]:
        raise _degenerate("the probes do not tell the timing's parameters apart")
    solution = _non_negative_least_squares(relative / scale) / scale
    overhead_s, step_s, prefill_s, decode_s, attention_s = (float(value) for value in solution)
    if prefill_s <= 0:
        raise _degenerate("the time to the first token does not grow with the prompt")
    timing = TimingSettings(
        step_s=_rounded(step_s),
        prefill_tokens_per_s=_rounded(1 / prefill_s),
        decode_s_per_sequence=_rounded(decode_s),
        attention_s_per_token=_rounded(attention_s),
        overhead_s=_rounded(overhead_s),
        jitter=_rounded(_jitter(measurements)),
    )
    return Calibration(timing, tuple(measurements), tuple(float(s) for s in rows @ solution))


def _row(probe: Probe, limits: EngineLimits) -> list[float]:
    """What the probe multiplies: overhead, step, prefill token, decode, context token."""
    num_prompt = probe.num_prompt_tokens
    if probe.is_prefill:
        return [1, math.ceil(num_prompt / limits.chunk_tokens), num_prompt, 0, 0]
    window = limits.window or math.inf
    # The step that generates token i + 1 attends to the prompt and i tokens.
    context = fmean(min(num_prompt + i, window) for i in range(1, probe.num_output_tokens))
    return [0, 1, 0, probe.num_streams, probe.num_streams * context]


def _non_negative_least_squares(columns: NDArray[Any]) -> NDArray[Any]:
    """The non-negative x whose `columns @ x` is nearest to ones.

    Tries every set of positive unknowns: the best one that is feasible is the optimum, as the
    problem is convex and there are only five unknowns.
    """
    import numpy as np

    num_unknowns = columns.shape[1]
    best, least = np.zeros(num_unknowns), math.inf
    for chosen in map(list, _subsets(num_unknowns)):
        some = np.linalg.lstsq(columns[:, chosen], np.ones(len(columns)), rcond=None)[0]
        error = float(np.linalg.norm(columns[:, chosen] @ some - 1))
        if (some >= 0).all() and error < least:
            best, least = np.zeros(num_unknowns), error
            best[chosen] = some
    return best


def _subsets(count: int) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(range(count), size) for size in range(1, count + 1))


def _jitter(measurements: Sequence[Measurement]) -> float:
    """The standard deviation of the logarithm of a gap over its probe's median.

    From the 0.9 quantile, since a few gaps of a busy machine would carry any square.
    """
    ratios = sorted(
        gap / m.median_s for m in measurements if not m.probe.is_prefill for gap in m.seconds
    )
    if not ratios:
        return 0.0
    return max(math.log(ratios[int(0.9 * (len(ratios) - 1))]), 0.0) / _P90


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _degenerate(problem: str) -> ConfigError:
    return ConfigError(
        f"the timing cannot be told from these measurements: {problem}",
        code="calibration_degenerate",
        hint="give --chunk-tokens and --window as the engine was started, and let nothing else "
        "use the engine meanwhile",
    )
