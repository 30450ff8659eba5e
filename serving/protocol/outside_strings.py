"""JSON without its strings, for whoever counts what a body holds before anything is built of it."""

from __future__ import annotations

from collections.abc import Iterator

_SLICE_BYTES = 65_536


def outside_strings(text: bytes) -> Iterator[bytes]:
    """What of a JSON text stands outside of its strings, in order.

    It comes in pieces of at most 64 KiB: cut up whole, a text of millions of tiny strings takes
    fifty times its size, and holds up every other thread meanwhile. Each byte is looked at a few
    times, whatever the text holds. Of what is no JSON the pieces mean nothing.

    >>> b"".join(outside_strings(rb'{"a": ["x, \\" y", 1]}'))
    b'{: [, 1]}'
    """
    is_inside = False
    start = 0
    while start < len(text):
        piece = text[start : start + _SLICE_BYTES]
        num_backslashes = len(piece) - len(piece.rstrip(b"\\"))
        if num_backslashes % 2:
            piece = piece[:-1]  # an escape is not cut in two
        start += max(len(piece), 1)
        # Of the escapes only these two matter; a run of backslashes begins with a pair, if any.
        parts = piece.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')
        yield b"".join(parts[is_inside::2])
        is_inside ^= len(parts) % 2 == 0
