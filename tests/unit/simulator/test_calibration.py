"""A timing is found again from what an engine with that timing would show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from random import Random

import pytest

from serving.errors import ConfigError
from serving.settings.simulator import TimingSettings
from serving.simulator.calibration import (
    EngineLimits,
    Measurement,
    Probe,
    fit_timing,
    plan_probes,
    run_probes,
    steady_gaps,
)

CPU = TimingSettings(
    step_s=0.06,
    prefill_tokens_per_s=1400,
    decode_s_per_sequence=0.0015,
    attention_s_per_token=4e-6,
    overhead_s=0.004,
)
GPU = TimingSettings()
CPU_LIMITS = EngineLimits(chunk_tokens=256, window=512, max_model_len=4096)
GPU_LIMITS = EngineLimits(chunk_tokens=2048)


def token_times(timing: TimingSettings, probe: Probe, limits: EngineLimits) -> Iterator[float]:
    """Seconds to each token of one stream of the probe, all of whose prompts are done together."""
    num_steps = -(-probe.num_prompt_tokens // limits.chunk_tokens)
    yield (
        timing.overhead_s
        + num_steps * timing.step_s
        + probe.num_prompt_tokens / timing.prefill_tokens_per_s
    )
    for i in range(1, probe.num_output_tokens):
        context = min(probe.num_prompt_tokens + i, limits.window or 10**9)
        per_stream = timing.decode_s_per_sequence + context * timing.attention_s_per_token
        yield timing.step_s + probe.num_streams * per_stream


def measurements(timing: TimingSettings, limits: EngineLimits) -> list[Measurement]:
    made = []
    for probe in plan_probes(limits):
        first, *gaps = token_times(timing, probe, limits)
        made.append(Measurement(probe, (first,) if probe.is_prefill else tuple(gaps)))
    return made


@pytest.mark.parametrize(("timing", "limits"), [(CPU, CPU_LIMITS), (GPU, GPU_LIMITS)])
def test_a_known_timing_is_recovered(timing: TimingSettings, limits: EngineLimits) -> None:
    found = fit_timing(measurements(timing, limits), limits)
    expected = timing.model_dump(exclude={"jitter"})
    assert found.timing.model_dump(exclude={"jitter"}) == pytest.approx(expected, rel=0.01)
    assert found.worst_error_ratio < 0.01


def test_a_parameter_that_would_be_negative_is_zero() -> None:
    """Longer contexts that are faster can only be noise."""
    found = fit_timing(
        [
            Measurement(m.probe, (0.05,)) if m.probe.name.startswith("ITL, 8 streams, 512") else m
            for m in measurements(CPU, CPU_LIMITS)
        ],
        CPU_LIMITS,
    )
    assert found.timing.attention_s_per_token == 0
    assert found.timing.step_s > 0


def test_jitter_is_recovered_and_a_few_outliers_do_not_matter() -> None:
    rng = Random(3)
    noisy = [
        m
        if m.probe.is_prefill
        else Measurement(
            m.probe,
            tuple(m.median_s * rng.lognormvariate(0, 0.1) for _ in range(400)) + (60.0,) * 4,
        )
        for m in measurements(CPU, CPU_LIMITS)
    ]
    assert fit_timing(noisy, CPU_LIMITS).timing.jitter == pytest.approx(0.1, rel=0.1)


def degenerate_sets() -> dict[str, list[Measurement]]:
    good = measurements(CPU, CPU_LIMITS)
    prefills = [m for m in good if m.probe.is_prefill]
    return {
        "nothing": [],
        "only prefills": prefills,
        "only decodes": [m for m in good if not m.probe.is_prefill],
        "one prompt length": [prefills[0], *(m for m in good if not m.probe.is_prefill)],
        "an empty probe": [*good[:-1], Measurement(good[-1].probe, ())],
        "no time passed": [*good[:-1], Measurement(good[-1].probe, (0.0,))],
        "prompts cost nothing": [
            Measurement(m.probe, (0.5 / m.probe.num_prompt_tokens,)) if m.probe.is_prefill else m
            for m in good
        ],
    }


@pytest.mark.parametrize("name", degenerate_sets())
def test_measurements_that_tell_nothing_are_refused(name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        fit_timing(degenerate_sets()[name], CPU_LIMITS)
    assert refused.value.code == "calibration_degenerate"
    assert refused.value.hint


def test_probes_fit_the_longest_sequence() -> None:
    probes = plan_probes(EngineLimits(chunk_tokens=2048, max_model_len=1024))
    assert max(p.num_prompt_tokens + p.num_output_tokens for p in probes) <= 1024
    with pytest.raises(ConfigError):
        plan_probes(EngineLimits(chunk_tokens=2048, max_model_len=64))


def test_gaps_count_only_while_all_streams_decode() -> None:
    early, late = [0.0, 1.0, 2.0, 3.5, 4.5], [2.0, 3.5, 4.5, 5.0]
    assert steady_gaps([early, late]) == [1.5, 1.0, 1.5, 1.0]


def test_tokens_of_one_chunk_have_no_gap() -> None:
    assert steady_gaps([[1.0, 2.0, 2.0, 3.0]]) == [1.0, 1.0]


async def test_probes_are_sent_with_words_of_their_own_and_timed() -> None:
    probes = [Probe(1, 8, 1), Probe(2, 8, 4)]
    prompts: list[tuple[int, ...]] = []

    async def send(prompt: Sequence[int], num_tokens: int) -> list[float]:
        prompts.append(tuple(prompt))
        return list(accumulate([100.0, 0.5, *[0.25] * (num_tokens - 1)]))

    found = await run_probes(probes, send, rng=Random(0), tell=lambda _: None)
    assert [m.probe for m in found] == probes
    assert [set(m.seconds) for m in found] == [{0.5}, {0.25}]
    assert len(set(prompts)) == len(prompts)
