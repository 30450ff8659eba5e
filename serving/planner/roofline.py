"""How long an engine's step takes on a GPU, from what it computes and what it reads. Pure.

A step multiplies its tokens with the weights, and reads the weights and the KV cache; whichever
takes longer takes the time. The constants below are assumptions, taken from published measurements;
`galerne plan calibrate` replaces them by measurements of one's own. Start with `Roofline`.

Source: Williams et al., "Roofline", CACM 2009. For decoders: Pope et al., "Efficiently Scaling
Transformer Inference", MLSys 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.errors import ConfigError
from serving.planner.attention import answer_attention_flops, prompt_attention_flops
from serving.planner.hardware import Gpu
from serving.planner.kv_cache import KvLayout
from serving.planner.model_config import ModelConfig
from serving.planner.parameters import count_parameters
from serving.planner.quantization import WeightFormat
from serving.planner.step_timing import StepTiming
from serving.settings.simulator import TimingSettings

FLOPS_16_BIT_RATIO = 0.6
FLOPS_8_BIT_RATIO = 0.45
"""Share of the peak that a prompt's matrices reach.

Source: NVIDIA/TensorRT-LLM 0.9, docs/source/performance.md, first token of 2,048 on an idle GPU:
Mistral 7B takes 139.6 ms on an A100 in 16 bits (68 % of the peak), 32.4 ms on an H100 in FP8
(46 %), 87.3 ms on an L40S in FP8 (46 %). vLLM is somewhat slower at the first than that.
"""

BANDWIDTH_RATIO = 0.75
"""Share of the memory's peak bandwidth with which weights and KV cache are read.

Source: baseten.com, "Benchmarking fast Mistral 7B inference": 170 tokens a second on an H100 in 16
bits, which is 0.73 with everything that a step does besides; inference-sim/inference-sim,
docs/design/roofline.md: 0.72, fitted to vLLM.
"""

LINK_RATIO = 0.75
"""Share of the links' bandwidth that an all-reduce reaches.

Source: vllm-project/vllm pull request 42324: 32 MiB on eight GPUs in 165 us, where the links' peak
would allow 130.
"""

STEP_OVERHEAD_S = 0.0003
"""Seconds of a step in which the GPU waits.

Source: vllm-project/vllm issue 10634: 0.2 to 0.3 ms, with asynchronous scheduling.
"""

SEQUENCE_OVERHEAD_S = 10e-6
"""Seconds that scheduling, sampling and detokenizing add for each sequence of a step.

Source: openfabric-systems/simllm pull request 204: 12.7 us in vLLM 0.27, most of which asynchronous
scheduling hides where sequences are few.
"""

_ALL_REDUCES_PER_LAYER = 2
"""After attention and after the feed-forward layer. Source: Shoeybi et al., "Megatron-LM", 2019."""
_ACTIVATION_BYTES = 2


@dataclass(frozen=True, slots=True)
class StepLimits:
    """What a step may hold: tokens in all, and sequences."""

    chunk_tokens: int
    max_num_seqs: int


@dataclass(frozen=True, slots=True)
class Roofline:
    """A model on `tensor_parallel_size` GPUs that share each layer.

    Mixtures of experts are taken to read all their experts in every step, which is so from a dozen
    sequences on.
    """

    model: ModelConfig
    gpu: Gpu
    layout: KvLayout
    tensor_parallel_size: int = 1

    @property
    def weight_bytes(self) -> int:
        """Weights on each GPU."""
        counted = count_parameters(self.model)
        return self._shared_bytes(counted.total - counted.layers)

    @property
    def read_bytes(self) -> int:
        """Weights that a step reads on each GPU: the layers and the output layer. Of the table of
        tokens it looks up rows, and a vision tower rests."""
        return self._shared_bytes(count_parameters(self.model).embedding)

    @property
    def kv_bytes_per_token(self) -> float:
        """Of all layers, on each GPU."""
        groups = self.layout.groups
        in_largest = max(group.num_layers for group in groups) * groups[0].block_size
        return self.layout.bytes_per_block / in_largest * self.model.num_layers

    def timing(self, limits: StepLimits) -> StepTiming:
        """The model of a step that the laboratory uses.

        Its linear part agrees with the roofline for a step that only decodes few sequences, and for
        one that is full. A roofline bends upwards, so between the two it is a little slower.
        """
        counted = count_parameters(self.model)
        prompt_flops = self.prompt_flops
        answer_flops = 2.0 * (counted.active_layers + counted.embedding)
        prefill_s = self._token_s(limits.chunk_tokens, prompt_flops)
        decode_s = self._token_s(limits.max_num_seqs, answer_flops)
        # Where many heads share what is read, as in latent attention, computing may take longer.
        attention_s = max(
            self.kv_bytes_per_token / self._bytes_per_s,
            self._attention_s(answer_attention_flops(self.model)),
        )
        linear = TimingSettings(
            step_s=self.step_s(0, prompt_flops),
            prefill_tokens_per_s=1 / prefill_s,
            decode_s_per_sequence=decode_s + SEQUENCE_OVERHEAD_S,
            attention_s_per_token=attention_s,
        )
        prompt_attention = prompt_attention_flops(self.model, limits.chunk_tokens)
        return StepTiming(linear, self._attention_s(prompt_attention))

    @property
    def prompt_flops(self) -> float:
        """Operations of one token of a prompt, of which only the last has an answer to choose;
        what it attends to comes on top."""
        return 2.0 * count_parameters(self.model).active_layers

    def _shared_bytes(self, num_unquantized: int) -> int:
        """Of the layers and so many other parameters, on each GPU."""
        layers = count_parameters(self.model).layers * known_weights(self.model).bits // 8
        return -(-(layers + num_unquantized * 2) // self.tensor_parallel_size)

    def _attention_s(self, flops: float) -> float:
        """Seconds of so many operations. Attention is a kernel of its own, so it overlaps with no
        reading of weights; it computes in 16 bits whatever the weights are stored in."""
        peak = self.gpu.flops_16_bit * self.tensor_parallel_size
        return flops / (peak * FLOPS_16_BIT_RATIO)

    def step_s(self, num_tokens: int, flops_per_token: float) -> float:
        """Seconds of a step that computes so many tokens, without attention."""
        compute_s = num_tokens * flops_per_token / (self._peak_flops * self._flops_ratio)
        read_s = self.read_bytes / self._bytes_per_s
        return max(compute_s, read_s) + self._exchange_s(num_tokens) + STEP_OVERHEAD_S

    def _token_s(self, num_tokens: int, flops_per_token: float) -> float:
        """What each token adds to a step that grows to so many. Where reading the weights outlasts
        all of them, still what it would take at the GPU's peak: nothing overlaps completely."""
        added_s = self.step_s(num_tokens, flops_per_token) - self.step_s(0, flops_per_token)
        return max(added_s / num_tokens, flops_per_token / self._peak_flops)

    def _exchange_s(self, num_tokens: int) -> float:
        """Seconds of a step's all-reduces, of which each sends its data around the ring twice."""
        size = self.tensor_parallel_size
        if size == 1:
            return 0.0
        sent_bytes = num_tokens * self.model.hidden_size * _ACTIVATION_BYTES * 2 * (size - 1) / size
        each_s = self.gpu.link_latency_s + sent_bytes / (self.gpu.link_bytes_per_s * LINK_RATIO)
        return _ALL_REDUCES_PER_LAYER * self.model.num_layers * each_s

    @property
    def _bytes_per_s(self) -> float:
        return self.gpu.memory_bytes_per_s * BANDWIDTH_RATIO

    @property
    def _computes_in_fp8(self) -> bool:
        return known_weights(self.model).computes_in_fp8 and self.gpu.flops_8_bit is not None

    @property
    def _peak_flops(self) -> float:
        """Of all GPUs together."""
        fast = self.gpu.flops_8_bit if self._computes_in_fp8 else None
        return (fast or self.gpu.flops_16_bit) * self.tensor_parallel_size

    @property
    def _flops_ratio(self) -> float:
        return FLOPS_8_BIT_RATIO if self._computes_in_fp8 else FLOPS_16_BIT_RATIO


def known_weights(model: ModelConfig) -> WeightFormat:
    """The format of the model's weights.

    Raises:
        ConfigError: it is not known here (`model_config_unknown`).
    """
    if model.weights is None:
        raise ConfigError(
            "quantization_config names a format whose weights and speed are not known here",
            code="model_config_unknown",
            param="quantization_config",
            hint="known: fp8, awq, gptq, and compressed-tensors with one group",
        )
    return model.weights
