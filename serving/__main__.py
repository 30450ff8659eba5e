"""Entry point of the `galerne` command."""

from __future__ import annotations

import errno
import sys

from serving.cli.console import report
from serving.cli.main import app
from serving.errors import ConfigError, ServingError


def main() -> None:
    """Run the command line; a `ServingError` becomes one line, a hint and an exit code."""
    try:
        app()
    except ServingError as error:
        sys.exit(report(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.exit(report(_disk_full(error)))


def _disk_full(error: OSError) -> ConfigError:
    return ConfigError(
        f"a file cannot be written: {error.strerror}",
        code="disk_full",
        hint=f"make room for {error.filename or 'the state folder (GALERNE_STATE_DIR)'}",
    )


if __name__ == "__main__":
    main()
