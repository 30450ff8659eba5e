"""What a detached start reads back out of its log is what was said, and JSON is JSON."""

from __future__ import annotations

import json
import math

import pytest

from serving.cli.console import print_json, progress, read_steps, report
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


def test_json_is_json_whatever_the_figures_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [math.inf, 1.5, {"b": math.nan}], "c": (-math.inf, True, None)})
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found == {"a": [None, 1.5, {"b": None}], "c": [None, True, None]}
