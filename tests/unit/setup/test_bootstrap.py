"""What bootstrap says about a failed install."""

from __future__ import annotations

import pytest

from serving.setup import bootstrap


@pytest.mark.parametrize(
    ("log", "hint"),
    [
        ("ERROR: No matching distribution found for torch==2.13.0+cpu", bootstrap.TORCH_HINT),
        ("OSError: [Errno 28] No space left on device", bootstrap.DISK_HINT),
        ("WARNING: Retrying after NewConnectionError('…')", bootstrap.NETWORK_HINT),
        ("ERROR: something else", bootstrap.OTHER_HINT),
    ],
)
def test_a_failed_install_gets_a_hint(log: str, hint: str) -> None:
    assert bootstrap.to_hint(log) == hint
