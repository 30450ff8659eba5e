"""A running platform has filled in what its settings leave to the planner."""

from __future__ import annotations

from e2e.harness import EMBEDDER, MODEL, Platform
from serving.planner.engine_device import CPU


def test_a_chunk_is_chosen_where_a_window_gains_by_it(platform: Platform) -> None:
    """The embedding model's sequences are no longer than its window."""
    chunks = {model["id"]: model["max_num_batched_tokens"] for model in platform.status()["models"]}
    assert chunks == {MODEL: 256, EMBEDDER: CPU.default_chunk_tokens}


def test_the_replica_logs_what_was_chosen_and_why(platform: Platform) -> None:
    logs = (platform.state_dir / "logs" / "ray" / "serve").glob("*.log")
    lines = [line for log in logs for line in log.read_text().splitlines()]
    assert sum(f"{MODEL}: prompts in chunks of 256 tokens: " in line for line in lines) == 1
