"""What `galerne` itself takes."""

from __future__ import annotations

from typer.testing import CliRunner

from serving import __version__
from serving.cli.main import app


def test_the_version_is_one_line() -> None:
    result = CliRunner().invoke(app, ["--version"])

    assert (result.exit_code, result.stdout) == (0, f"galerne {__version__}\n")


def test_the_help_still_tells_what_it_is() -> None:
    result = CliRunner().invoke(app, ["--help"])

    assert result.exit_code == 0
    assert "Self-hosted inference" in result.stdout
    assert "--version" in result.stdout
