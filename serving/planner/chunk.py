"""Which prefill chunk makes a sliding window's saving real without slowing prompts down. Pure.

A window layer holds its window and, until each step is done, all that is in flight. vLLM's default
chunk of thousands of tokens is several windows of a small model, and most of what a sequence holds
is then chunk. Start with `choose_chunk`.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.planner.engine_device import EngineDevice
from serving.planner.kv_cache import KvLayout, Lengths

_WINDOW_SHARE = 2
"""What is in flight may be half of the window: sequences then hold at most half as much again as
the window itself."""
_MIN_GAIN = 1.1
"""A tenth more sequences is worth more steps for each prompt; less is not."""


@dataclass(frozen=True, slots=True)
class ChunkChoice:
    """`max_num_batched_tokens`, `None` for vLLM's own, and why.

    `gain_ratio` is how many times as many full-length sequences fit as with vLLM's default.
    """

    tokens: int | None
    reason: str
    gain_ratio: float = 1.0


def choose_chunk(
    layout: KvLayout, *, max_model_len: int, max_num_seqs: int, device: EngineDevice
) -> ChunkChoice:
    """The chunk for a model with this cache.

    It is the largest power of two of which all steps in flight take half of the narrowest window,
    but no smaller than keeps the device busy, nor than one token for each of `max_num_seqs`, which
    vLLM insists on.

    >>> from serving.planner.engine_device import CPU
    >>> from serving.planner.kv_cache import LayerGroup
    >>> demo = KvLayout((LayerGroup(30, 128, window=512),), bytes_per_block=2_949_120)
    >>> choice = choose_chunk(demo, max_model_len=4096, max_num_seqs=64, device=CPU)
    >>> choice.tokens, choice.gain_ratio
    (256, 3.0)
    >>> full = demo.without_windows()
    >>> choose_chunk(full, max_model_len=4096, max_num_seqs=64, device=CPU)
    ChunkChoice(tokens=None, reason='full attention holds the same whatever the chunk', \
gain_ratio=1.0)
    """
    windows = [group.window for group in layout.groups if group.window is not None]
    if not windows:
        return ChunkChoice(None, "full attention holds the same whatever the chunk")
    window = min(windows)
    share = window // (_WINDOW_SHARE * device.num_concurrent_steps)
    tokens = max(_power_of_two(share), device.min_chunk_tokens, _power_of_two_above(max_num_seqs))
    default = device.default_chunk_tokens
    if tokens >= default:
        return ChunkChoice(None, f"vLLM's default is small beside the window of {window:,} tokens")
    gain_ratio = _blocks(layout, max_model_len, default, device) / _blocks(
        layout, max_model_len, tokens, device
    )
    if gain_ratio < _MIN_GAIN:
        return ChunkChoice(None, "a smaller chunk would not make room for a tenth more sequences")
    return ChunkChoice(tokens, _reason(window, tokens, device), gain_ratio)


def lengths_of(max_model_len: int, chunk_tokens: int, *, device: EngineDevice) -> Lengths:
    """Of sequences whose prompts are computed in such chunks.

    Source: `VllmConfig.max_in_flight_tokens`, vLLM 0.32.
    """
    return Lengths(max_model_len, in_flight=device.num_concurrent_steps * chunk_tokens)


def _blocks(layout: KvLayout, max_model_len: int, chunk_tokens: int, device: EngineDevice) -> int:
    return layout.blocks_per_sequence(lengths_of(max_model_len, chunk_tokens, device=device))


def _reason(window: int, tokens: int, device: EngineDevice) -> str:
    in_flight = tokens * device.num_concurrent_steps
    return (
        f"a sequence holds its window of {window:,} tokens and up to {in_flight:,} in flight, "
        f"not {device.default_chunk_tokens * device.num_concurrent_steps:,}"
    )


def _power_of_two(amount: int) -> int:
    """The largest that is not above, at least 1."""
    return 1 << max(amount, 1).bit_length() - 1


def _power_of_two_above(amount: int) -> int:
    """The smallest that is not below."""
    return 1 << (amount - 1).bit_length()
