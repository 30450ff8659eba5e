"""One engine's measured timing, for engines of the same model and GPU in other shapes. Pure.

The roofline knows how a step's parts change with tensor parallelism and chunk, the measurement how
long they take: what is measured is scaled by the roofline's ratios. Start with `MeasuredTiming`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.errors import ConfigError
from serving.planner.step_timing import StepTiming
from serving.settings import TimingSettings


class MeasuredTiming(BaseModel):
    """The timing of an engine that shares each layer out to `tensor_parallel_size` GPUs named
    `gpu`, in steps of at most `max_num_batched_tokens` tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpu: str
    tensor_parallel_size: int = Field(1, ge=1)
    max_num_batched_tokens: int = Field(ge=1)
    max_num_seqs: int = Field(ge=1)
    timing: TimingSettings


@dataclass(frozen=True, slots=True)
class Correction:
    """A measurement, and what the roofline says of the engine that was measured, its prompts as
    long as those that were sent."""

    measured: TimingSettings
    foretold: TimingSettings

    def apply(self, timing: StepTiming) -> StepTiming:
        """The roofline's timing of another shape, corrected.

        >>> half = StepTiming(TimingSettings(step_s=0.004, prefill_tokens_per_s=10_000))
        >>> foretold = TimingSettings(step_s=0.008, prefill_tokens_per_s=5_000)
        >>> measured = TimingSettings(step_s=0.010, prefill_tokens_per_s=4_000)
        >>> corrected = Correction(measured, foretold).apply(half).linear
        >>> corrected.step_s, corrected.prefill_tokens_per_s
        (0.005, 8000.0)
        """
        measured, foretold, linear = self.measured, self.foretold, timing.linear
        prefill = measured.prefill_tokens_per_s / foretold.prefill_tokens_per_s
        corrected = TimingSettings(
            step_s=_scaled(linear.step_s, measured.step_s, foretold.step_s),
            prefill_tokens_per_s=linear.prefill_tokens_per_s * prefill,
            decode_s_per_sequence=_scaled(
                linear.decode_s_per_sequence,
                measured.decode_s_per_sequence,
                foretold.decode_s_per_sequence,
            ),
            attention_s_per_token=_scaled(
                linear.attention_s_per_token,
                measured.attention_s_per_token,
                foretold.attention_s_per_token,
            ),
            overhead_s=measured.overhead_s,
        )
        return StepTiming(corrected, timing.prompt_attention_s / prefill)


def read_measured_timing(document: Mapping[str, Any]) -> MeasuredTiming:
    """What `galerne plan calibrate` has written.

    Raises:
        ConfigError: it is something else (`calibration_invalid`); names the field.
    """
    try:
        return MeasuredTiming.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}",
            code="calibration_invalid",
            param="--calibration",
            hint="give a file that `galerne plan calibrate --out FILE` has written",
        ) from error


def _scaled(value: float, measured: float, foretold: float) -> float:
    return value * measured / foretold
