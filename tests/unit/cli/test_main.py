"""What `galerne` itself takes."""

from __future__ import annotations

import subprocess
import sys

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


def test_a_mistyped_command_is_told_the_nearest() -> None:
    result = CliRunner().invoke(app, ["statu"])

    assert result.exit_code == 2
    assert "Did you mean 'status'?" in result.output


def test_a_command_takes_no_time_for_the_libraries_of_others() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from serving.cli.main import app\n"
        "assert CliRunner().invoke(app, ['keys', 'create', '--help']).exit_code == 0\n"
        "assert not {'aiohttp', 'numpy', 'ray'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
