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
from serving.planner.parameters import count_parameters
from serving.planner.roofline import Roofline, known_weights
from serving.planner.step_timing import StepTiming
from serving.settings.simulator import TimingSettings


class MeasuredModel(BaseModel):
    """What of a model the roofline depends on, and a name for people. `kv_bytes_per_token` are of
    all layers on each GPU, so they tell the type of the KV cache."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    parameters: int
    active_parameters: int
    layers: int
    hidden_size: int
    heads: int
    head_size: int
    weight_bits: int
    computes_in_fp8: bool
    kv_bytes_per_token: int


def measured_model(name: str, roofline: Roofline) -> MeasuredModel:
    """The model of an engine that is as this roofline has it.

    Raises:
        ConfigError: the format of its weights is not known (`model_config_unknown`).
    """
    model, counted = roofline.model, count_parameters(roofline.model)
    weights = known_weights(model)
    return MeasuredModel(
        name=name,
        parameters=counted.total,
        active_parameters=counted.active,
        layers=model.num_layers,
        hidden_size=model.hidden_size,
        heads=model.num_heads,
        head_size=model.head_size,
        weight_bits=weights.bits,
        computes_in_fp8=weights.computes_in_fp8,
        kv_bytes_per_token=round(roofline.kv_bytes_per_token),
    )


class MeasuredTiming(BaseModel):
    """The timing of an engine that shares each layer of a model out to `tensor_parallel_size` GPUs
    named `gpu`, in steps of at most `max_num_batched_tokens` tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: MeasuredModel
    gpu: str
    tensor_parallel_size: int = Field(1, ge=1)
    max_num_batched_tokens: int = Field(ge=1)
    max_num_seqs: int = Field(ge=1)
    timing: TimingSettings

    def check(self, roofline: Roofline) -> None:
        """
        Raises:
            ConfigError: it was measured on another GPU, or with another model, than those of a
                roofline of its tensor parallelism (`calibration_invalid`).
        """
        if self.gpu != roofline.gpu.name:
            raise _measured_elsewhere(f"on {self.gpu}, not on {roofline.gpu.name}")
        name = self.model.name
        planned = measured_model(name, roofline).model_dump()
        for field, value in self.model.model_dump().items():
            if value != planned[field]:
                raise _measured_elsewhere(
                    f"with {name}: {field} {value}, where the model has {planned[field]}"
                )


def _measured_elsewhere(how: str) -> ConfigError:
    return ConfigError(
        f"the timing was measured {how}",
        code="calibration_invalid",
        param="--calibration",
        hint="measure an engine with this model on this GPU, or leave it out",
    )


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
