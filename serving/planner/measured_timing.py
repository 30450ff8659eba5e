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
    """A measurement, and what the roofline says of the engine that was measured."""

    measured: TimingSettings
    foretold: TimingSettings

    def apply(self, timing: TimingSettings) -> TimingSettings:
        """The roofline's timing of another shape, corrected.

        >>> half = TimingSettings(step_s=0.004, prefill_tokens_per_s=10_000)
        >>> foretold = TimingSettings(step_s=0.008, prefill_tokens_per_s=5_000)
        >>> measured = TimingSettings(step_s=0.010, prefill_tokens_per_s=4_000)
        >>> corrected = Correction(measured, foretold).apply(half)
        >>> corrected.step_s, corrected.prefill_tokens_per_s
        (0.005, 8000.0)
        """
        measured, foretold = self.measured, self.foretold
        return TimingSettings(
            step_s=_scaled(timing.step_s, measured.step_s, foretold.step_s),
            prefill_tokens_per_s=_scaled(
                timing.prefill_tokens_per_s,
                measured.prefill_tokens_per_s,
                foretold.prefill_tokens_per_s,
            ),
            decode_s_per_sequence=_scaled(
                timing.decode_s_per_sequence,
                measured.decode_s_per_sequence,
                foretold.decode_s_per_sequence,
            ),
            attention_s_per_token=_scaled(
                timing.attention_s_per_token,
                measured.attention_s_per_token,
                foretold.attention_s_per_token,
            ),
            overhead_s=measured.overhead_s,
        )


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
