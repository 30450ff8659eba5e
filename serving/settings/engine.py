"""How vLLM runs one replica of a model, and what that replica reserves."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from serving.settings.section import PoolName, Section


class EngineSettings(Section):
    """How vLLM runs one replica of a model."""

    max_model_len: int | None = Field(None, ge=16)
    """Longest prompt plus completion, in tokens. `None` takes the model's own limit."""
    max_num_seqs: int = Field(256, ge=1)
    """Sequences decoded together."""
    max_num_batched_tokens: int | None = Field(None, ge=16)
    """Tokens per engine step, which is the prefill chunk size. A sliding-window layer holds
    `window - 1 + max_num_batched_tokens` tokens per request, so on windowed models a small chunk
    is what makes the window's saving real. `None` takes half a window on such models, if that
    makes room for more sequences (ADR 18), and vLLM's default on all others."""
    block_size: int | None = Field(None, ge=8, le=256)
    """Tokens per KV block. `None` takes vLLM's default for the device."""
    kv_cache_gib: float | None = Field(None, gt=0)
    """KV cache per replica, in GiB. `None` derives it from free device memory."""
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    """Share of each GPU that vLLM may use; ignored on CPU."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Weight and activation type."""
    enforce_eager: bool = False
    """Skip graph capture and compilation: slower decode, much faster start."""
    tokenizer_mode: Literal["auto", "mistral"] = "auto"
    """`mistral` for models published in Mistral's own format."""
    config_format: Literal["auto", "hf", "mistral"] = "auto"
    """Format of the model's configuration files."""
    load_format: Literal["auto", "safetensors", "mistral"] = "auto"
    """Format of the weight files."""
    tool_call_parser: str | None = None
    """vLLM's tool-call parser, for example `mistral`; `None` turns tool parsing off."""
    reasoning_parser: str | None = None
    """vLLM's reasoning parser, for example `mistral`; `None` turns it off."""
    tensor_parallel_size: int = Field(1, ge=1, le=64)
    """GPUs that share each layer; one node's NVLink domain is the sensible maximum."""
    pipeline_parallel_size: int = Field(1, ge=1, le=64)
    """Stages of layers, each on its own group of `tensor_parallel_size` GPUs."""
    hang_timeout_s: float = Field(60.0, gt=0)
    """A replica that has requests and finishes no engine step for this long is replaced."""
    extra_args: dict[str, str | int | float | bool | list[str]] = Field(default_factory=dict)
    """Further vLLM server options by their command-line name without the dashes, for example
    `{seed: 1}`. Options that Galerne owns (model, host, port, api-key, …) are refused."""

    @property
    def num_gpus(self) -> int:
        """GPUs of one replica, where it runs on GPUs."""
        return self.tensor_parallel_size * self.pipeline_parallel_size


class ResourceSettings(Section):
    """What one engine replica reserves in the Ray cluster."""

    device: Literal["cpu", "gpu"] = "gpu"
    """`gpu` reserves `tensor_parallel_size * pipeline_parallel_size` GPUs."""
    accelerator_type: str | None = None
    """Ray accelerator type, for example `H100`; `None` takes any GPU."""
    pool: PoolName | None = None
    """Nodes the replicas run on: those that offer Ray resource `pool:NAME`, on Kubernetes a worker
    group of the chart. `None` takes any node with room."""
    num_cpus: float = Field(1.0, ge=0)
    """CPU cores reserved per placement bundle. 0 reserves nothing and lets replicas share. On
    device `cpu` also the number of compute threads; below 1 that is every core but one."""
