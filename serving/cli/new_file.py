"""Files that commands write for people, and never over one that is there."""

from __future__ import annotations

from pathlib import Path

from serving.errors import ConfigError


def check_new(path: Path | None, *, option: str) -> None:
    """Return if a file of that name can be new, which is better known before work than after it.

    Args:
        option: which named the file, for errors.

    Raises:
        ConfigError: there is one (`file_exists`), or its folder is not there (`not_written`).
    """
    if path is None:
        return
    if path.exists():
        raise _exists(path, option)
    if not path.parent.is_dir():
        raise ConfigError(
            f"cannot write {path}: there is no folder {path.parent}",
            code="not_written",
            param=option,
            hint="make the folder, or name another",
        )


def write_new(path: Path, text: str, *, option: str) -> None:
    """The text is in a new file.

    Raises:
        ConfigError: as `check_new`, or the file cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise _exists(path, option) from error
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}", code="not_written", param=option
        ) from error


def _exists(path: Path, option: str) -> ConfigError:
    return ConfigError(
        f"{path} is there already, and was left as it is",
        code="file_exists",
        param=option,
        hint="name another file, or remove that one",
    )
