"""An engine puts itself first in the kernel's order, its children with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from serving.engine.oom import be_first_victim


def test_a_process_and_its_children_come_first() -> None:
    code = (
        "import subprocess; from serving.engine.oom import be_first_victim; be_first_victim();"
        "print(open('/proc/self/oom_score_adj').read());"
        "subprocess.run(['cat', '/proc/self/oom_score_adj'], check=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == ["1000", "1000"]


def test_an_engine_starts_without_it(tmp_path: Path) -> None:
    be_first_victim(tmp_path / "absent" / "oom_score_adj")
