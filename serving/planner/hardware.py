"""GPUs as their vendor's data sheets have them: what a plan needs to know of one. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from serving.errors import ConfigError

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU.

    `memory_bytes` is what `nvidia-smi` shows as total, which is less than the name says where error
    correction takes its share. `flops_16_bit` and `flops_8_bit` are of dense matrices in bfloat16
    and FP8, `None` where the GPU cannot. `link_bytes_per_s` is what it sends to its neighbours in
    one direction, and as much in the other; `link_latency_s` what an all-reduce of little data
    takes. `accelerator_type` is what Ray finds out on a node by itself, which tells nothing of
    memory: its `A100-40G` and `A100-80G` are for labels given by hand.

    Source: NVIDIA's data sheets of each; their figures with sparsity are halved. Memory:
    `nvidia-smi` of such machines.
    """

    name: str
    accelerator_type: str
    memory_bytes: int
    memory_bytes_per_s: float
    flops_16_bit: float
    flops_8_bit: float | None
    link_bytes_per_s: float
    link_latency_s: float


_NVLINK_LATENCY_S = 10e-6
"""Source: vllm-project/vllm pull requests 24111 and 24532: 7 to 13 us for half a MiB on two to six
H100."""
_PCIE_LATENCY_S = 30e-6
"""An assumption: three times NVLink's."""
_PCIE_4 = 32e9
"""Source: the data sheets of L40S and L4, "PCIe Gen4 x16: 64 GB/s bidirectional"."""

_GPUS = (
    Gpu("H100-80G", "H100", 81_559 * _MIB, 3.35e12, 989e12, 1979e12, 450e9, _NVLINK_LATENCY_S),
    Gpu("H200", "H200", 143_771 * _MIB, 4.8e12, 989e12, 1979e12, 450e9, _NVLINK_LATENCY_S),
    Gpu("B200", "B200", 183_359 * _MIB, 8e12, 2250e12, 4500e12, 900e9, _NVLINK_LATENCY_S),
    Gpu("A100-80G", "A100", 81_920 * _MIB, 2.039e12, 312e12, None, 300e9, _NVLINK_LATENCY_S),
    Gpu("A100-40G", "A100", 40_960 * _MIB, 1.555e12, 312e12, None, 300e9, _NVLINK_LATENCY_S),
    Gpu("L40S", "L40S", 46_068 * _MIB, 0.864e12, 362e12, 733e12, _PCIE_4, _PCIE_LATENCY_S),
    Gpu("L4", "L4", 23_034 * _MIB, 0.3e12, 121e12, 242e12, _PCIE_4, _PCIE_LATENCY_S),
)
"""H100, H200 and A100 are the SXM modules; B200 is that of HGX B200, at 1,000 W."""

GPUS = {gpu.name: gpu for gpu in _GPUS}


def lookalikes(gpu: Gpu) -> list[str]:
    """Names of other GPUs that Ray cannot tell from this one.

    >>> lookalikes(GPUS["A100-80G"]), lookalikes(GPUS["H100-80G"])
    (['A100-40G'], [])
    """
    return [
        other.name
        for other in _GPUS
        if other.accelerator_type == gpu.accelerator_type and other != gpu
    ]


def find_gpu(name: str) -> Gpu:
    """The GPU of that name, in upper or lower case.

    Raises:
        ConfigError: there is none (`gpu_unknown`).

    >>> find_gpu("h100-80g").memory_bytes_per_s
    3350000000000.0
    """
    if (gpu := GPUS.get(name.upper())) is None:
        raise ConfigError(
            f"there is no GPU {name!r} here",
            code="gpu_unknown",
            param="--gpu",
            hint=f"known: {', '.join(GPUS)}",
        )
    return gpu
