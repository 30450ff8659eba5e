"""How a detached start ends when the platform does not come up."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from serving.cli.platform import report_end
from serving.errors import ConfigError

STEPS = "starting 0 s\nstarting Ray 1 s\n"
SAID = "error no room (models)\nhint  lower replicas, or use --preset cpu\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "up.log"


def test_its_last_words_are_passed_on_once(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.write_text(STEPS + SAID)

    with pytest.raises(typer.Exit) as ended:
        report_end(2, log)

    assert ended.value.exit_code == 2
    assert capsys.readouterr().err == SAID


@pytest.mark.parametrize("returncode", [0, -9])
def test_an_end_without_a_word_is_an_error_that_names_the_log(log: Path, returncode: int) -> None:
    log.write_text(STEPS)

    with pytest.raises(ConfigError) as ended:
        report_end(returncode, log)

    assert str(log) in ended.value.hint
