"""The chunk bench measures what `galerne up` would run."""

from __future__ import annotations

from loadtest.benches import chunk
from loadtest.figures import Line, compare
from loadtest.peers import bare_vllm


def test_the_planned_side_is_what_all_other_benches_run() -> None:
    assert chunk.planned_chunk() == bare_vllm.ENGINE_OPTIONS["max_num_batched_tokens"]


def test_the_ratio_is_the_planners() -> None:
    base = Line(chunk.ROOM, chunk.DEFAULT, 17.0, "sequences")
    ours = compare(Line(chunk.ROOM, chunk.PLANNED, 51.0, "sequences"), base)
    assert chunk.ratio([base, ours], chunk.ROOM) == 3.0
