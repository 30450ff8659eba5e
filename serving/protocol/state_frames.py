"""How an engine replica tells gateways its state: a stream of length-prefixed msgpack frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np

_LENGTH_BYTES = 4
MAX_FRAME_BYTES = 256 * 1024 * 1024
"""A snapshot of thirty million blocks; more is no frame of ours."""


class LoadReport(msgspec.Struct, frozen=True):
    """A replica's load at one moment.

    `running` and `waiting` count requests in the engine, `in_flight` those its listener holds.
    `waiting_tokens` is prompt left to compute, `prefill_tokens_per_s` how fast the engine has
    computed prompts lately, 0 before the first. `kv_blocks_used` counts blocks of running requests,
    `num_gateways` those who are told this.
    """

    running: int
    waiting: int
    waiting_tokens: int
    prefill_tokens_per_s: float
    kv_blocks_used: int
    in_flight: int
    draining: bool
    adapters: tuple[str, ...] = ()
    num_gateways: int = 1


class CacheLayout(msgspec.Struct, frozen=True):
    """How a replica's KV cache is made, fixed from its start.

    `total_blocks` blocks of `block_size` tokens. `window_blocks` tells for each KV-cache group how
    many blocks back its attention reaches, `None` for full attention; without a group the replica
    does not tell what is cached.
    """

    block_size: int
    total_blocks: int
    window_blocks: tuple[int | None, ...] = ()


class StateFrame(msgspec.Struct, frozen=True):
    """A report, and how the prefix cache has changed since the frame before.

    `seq` counts up by one from frame to frame. A snapshot, which has the `layout`, tells everything
    that is cached; any other frame tells what came and went, by KV-cache group, as `pack_names`
    writes it.
    """

    seq: int
    layout: CacheLayout | None
    report: LoadReport
    stored: Mapping[int, bytes] = msgspec.field(default_factory=dict)
    removed: Mapping[int, bytes] = msgspec.field(default_factory=dict)

    @property
    def is_snapshot(self) -> bool:
        return self.layout is not None


class FrameError(Exception):
    """The bytes are no frames."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(StateFrame)


def encode_frame(frame: StateFrame) -> bytes:
    """The frame as it goes over the wire."""
    payload = _encoder.encode(frame)
    return len(payload).to_bytes(_LENGTH_BYTES, "big") + payload


class FrameReader:
    """Takes bytes as they come and gives frames as they are complete.

    >>> report = LoadReport(1, 0, 0, 0.0, 0, 1, False)
    >>> reader = FrameReader()
    >>> wire = encode_frame(StateFrame(7, None, report))
    >>> [frame.seq for half in (wire[:9], wire[9:]) for frame in reader.feed(half)]
    [7]
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[StateFrame]:
        """The frames that these bytes complete.

        Raises:
            FrameError: what came is no frame.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH_BYTES:
            length = int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
            if length > MAX_FRAME_BYTES:
                raise FrameError(f"a frame of {length} bytes")
            if len(self._buffer) < _LENGTH_BYTES + length:
                return
            payload = bytes(self._buffer[_LENGTH_BYTES : _LENGTH_BYTES + length])
            del self._buffer[: _LENGTH_BYTES + length]
            try:
                frame = _decoder.decode(payload)
            except msgspec.MsgspecError as error:
                raise FrameError(str(error)) from error
            yield frame


def pack_names(names: Sequence[int]) -> bytes:
    """Names of blocks, 8 bytes each.

    >>> unpack_names(pack_names([1, 2**64 - 1]))
    [1, 18446744073709551615]
    """
    return np.array(names, dtype="<u8").tobytes()


def unpack_names(packed: bytes) -> list[int]:
    """What `pack_names` was given.

    Raises:
        ValueError: it was not.
    """
    names: list[int] = np.frombuffer(packed, dtype="<u8").tolist()
    return names
