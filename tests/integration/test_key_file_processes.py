"""Commands in several processes may write the key file at once."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from serving.adapters.key_store import KeyFile

PROCESSES = 4
KEYS_PER_PROCESS = 5


def create_several(path: Path, prefix: str) -> list[str]:
    """Runs in other processes."""
    file = KeyFile(path)
    return [file.create(f"{prefix}-{n}")[1].id for n in range(KEYS_PER_PROCESS)]


def test_parallel_processes_lose_no_key(tmp_path: Path) -> None:
    path = tmp_path / "state" / "keys.json"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        batches = pool.map(create_several, [path] * PROCESSES, map(str, range(PROCESSES)))
        created = {key_id for batch in batches for key_id in batch}

    assert len(created) == PROCESSES * KEYS_PER_PROCESS
    assert {record.id for record in KeyFile(path).list()} == created
