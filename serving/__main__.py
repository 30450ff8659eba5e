"""Entry point of the `galerne` command."""

from __future__ import annotations

import sys

from serving.cli.console import report
from serving.cli.main import app
from serving.errors import ServingError


def main() -> None:
    """Run the command line; a `ServingError` becomes one line, a hint and an exit code."""
    try:
        app()
    except ServingError as error:
        sys.exit(report(error))


if __name__ == "__main__":
    main()
