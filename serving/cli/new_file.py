"""Files that commands write for people, and never over one that is there."""

from __future__ import annotations

from pathlib import Path

from serving.errors import ConfigError


def write_new(path: Path, text: str, *, option: str) -> None:
    """The text is in a new file.

    Args:
        option: which named the file, for errors.

    Raises:
        ConfigError: there is a file of that name (`file_exists`), or it cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(
            f"{path} is there already, and was left as it is",
            code="file_exists",
            param=option,
            hint="name another file, or remove that one",
        ) from error
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}", code="not_written", param=option
        ) from error
