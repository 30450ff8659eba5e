"""What one replica of a model is on a GPU: what fits, and how long its steps take. Pure.

Start with `plan_replica`.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.errors import ConfigError
from serving.planner.chunk import lengths_of
from serving.planner.engine_device import GPU
from serving.planner.hardware import Gpu
from serving.planner.kv_cache import (
    KvCachePlan,
    KvLayout,
    KvOptions,
    Lengths,
    kv_layout,
    plan_kv_cache,
)
from serving.planner.measured_timing import Correction, MeasuredTiming
from serving.planner.model_config import ModelConfig
from serving.planner.roofline import Roofline, StepLimits
from serving.planner.step_timing import StepTiming
from serving.settings.engine import EngineSettings

GPU_MEMORY_UTILIZATION: float = EngineSettings().gpu_memory_utilization
"""The default of the settings, a little below vLLM's own, which is 0.92. Source: `CacheConfig` in
vllm/config/cache.py, vLLM 0.32."""

_RUNTIME_BYTES = 3 << 29
"""CUDA's context, NCCL's buffers and captured graphs: 1.5 GiB, an assumption."""
_LOGIT_BYTES = 8
"""Of each sequence and word: logits in 32 bits, and the sampler's copy. Source:
vllm/v1/sample/sampler.py, vLLM 0.32."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How a replica is started: vLLM's options of these names."""

    tensor_parallel_size: int
    max_num_batched_tokens: int
    max_num_seqs: int

    @property
    def limits(self) -> StepLimits:
        return StepLimits(self.max_num_batched_tokens, self.max_num_seqs)


@dataclass(frozen=True, slots=True)
class ReplicaQuestion:
    """What all shapes have in common.

    `measured` takes the place of the roofline's assumptions.
    """

    model: ModelConfig
    gpu: Gpu
    max_model_len: int
    kv_dtype: str = "auto"
    block_size: int | None = None
    measured: MeasuredTiming | None = None

    def roofline(self, tensor_parallel_size: int) -> Roofline:
        """
        Raises:
            ConfigError: so many GPUs cannot share the model's heads.
        """
        options = KvOptions(
            block_size=self.block_size,
            kv_dtype=self.kv_dtype,
            tensor_parallel_size=tensor_parallel_size,
        )
        layout = kv_layout(self.model, options, device=GPU)
        return Roofline(self.model, self.gpu, layout, tensor_parallel_size)

    def timing(self, roofline: Roofline, limits: StepLimits) -> StepTiming:
        """Of steps with these limits."""
        timing = roofline.timing(limits)
        return self._correction(self.measured).apply(timing) if self.measured else timing

    def _correction(self, measured: MeasuredTiming) -> Correction:
        limits = StepLimits(measured.max_num_batched_tokens, measured.max_num_seqs)
        roofline = self.roofline(measured.tensor_parallel_size)
        # Calibration measures prompts of up to three chunks.
        context_tokens = float(measured.max_num_batched_tokens)
        foretold = roofline.timing(limits).with_prompts_of(context_tokens)
        return Correction(measured.timing, foretold)


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """A replica that vLLM would start. `weight_bytes` and `kv_bytes` are of each GPU."""

    shape: Shape
    weight_bytes: int
    kv_bytes: int
    layout: KvLayout
    kv: KvCachePlan
    lengths: Lengths
    timing: StepTiming

    @property
    def blocks_per_sequence(self) -> int:
        """KV blocks of a sequence of full length."""
        return self.layout.blocks_per_sequence(self.lengths)


def plan_replica(question: ReplicaQuestion, shape: Shape) -> ReplicaPlan:
    """The replica of that shape.

    Raises:
        ConfigError: the weights do not fit (`weights_do_not_fit`), one sequence of full length does
            not (`kv_cache_too_small`), or the model cannot be shared out like that.
    """
    roofline = question.roofline(shape.tensor_parallel_size)
    kv_bytes = _kv_bytes(roofline, shape.limits)
    lengths = lengths_of(question.max_model_len, shape.max_num_batched_tokens, device=GPU)
    return ReplicaPlan(
        shape=shape,
        weight_bytes=roofline.weight_bytes,
        kv_bytes=kv_bytes,
        layout=roofline.layout,
        kv=plan_kv_cache(roofline.layout, lengths, kv_bytes=kv_bytes),
        lengths=lengths,
        timing=question.timing(roofline, shape.limits),
    )


def _kv_bytes(roofline: Roofline, limits: StepLimits) -> int:
    """What is left on each GPU.

    Source: `determine_available_memory` in vllm/v1/worker/gpu_worker.py, vLLM 0.32, which measures
    what is estimated here.
    """
    usable = int(roofline.gpu.memory_bytes * GPU_MEMORY_UTILIZATION)
    left = usable - roofline.weight_bytes - _RUNTIME_BYTES - _activation_bytes(roofline, limits)
    if left <= 0:
        gib = 1 << 30
        raise ConfigError(
            f"weights of {roofline.weight_bytes / gib:.1f} GiB on each GPU do not fit beside what "
            f"a step takes: {usable / gib:.1f} GiB are usable",
            code="weights_do_not_fit",
            param="--gpu",
        )
    return left


def _activation_bytes(roofline: Roofline, limits: StepLimits) -> int:
    """What a full step needs at its peak: a feed-forward layer's input, gate and result of each
    token, and the logits of each sequence."""
    model, size = roofline.model, roofline.tensor_parallel_size
    intermediate = model.intermediate_size
    if model.experts:
        at_once = model.experts.num_active + model.experts.num_shared
        intermediate = max(intermediate, model.experts.intermediate_size * at_once)
    per_token = 2 * (3 * intermediate // size + 4 * model.hidden_size)
    logits = limits.max_num_seqs * model.vocab_size * _LOGIT_BYTES
    return limits.chunk_tokens * per_token + logits
