"""What a detached start reads back out of its log is what was said."""

from __future__ import annotations

import pytest

from serving.cli.console import progress, read_steps, report
from serving.errors import ConfigError

FAILURE = ConfigError("no room for 12 s", code="x", hint="lower it, or use --preset cpu for 8 s")
SAID = "error no room for 12 s\nhint  lower it, or use --preset cpu for 8 s"
LONG = "loading: " + ", ".join(f"model-{number} 0/1" for number in range(20)) + " ready"


def test_a_failure_is_told_apart_from_the_steps_before_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress("starting") as tell:
        tell(LONG)
    before = capsys.readouterr().err
    report(FAILURE)
    log = before + capsys.readouterr().err

    assert read_steps("") == ("", "")
    assert read_steps(before) == (LONG, "")
    assert read_steps(log) == (LONG, SAID)


def test_a_line_that_is_being_written_is_no_step() -> None:
    assert read_steps("starting Ray 3 s\nloading: demo 0/")[0] == "starting Ray"


def test_a_traceback_is_kept() -> None:
    assert read_steps("starting 0 s\nTraceback\n  File\nKeyError: 1\n")[1].startswith("Traceback")
