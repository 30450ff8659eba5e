"""The settings in force, as the processes of a running platform read them again and again."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import ValidationError

from serving.adapters.secrets_file import replace_private_file
from serving.errors import ConfigError
from serving.settings.platform import Settings

logger = logging.getLogger("ray.serve")


class SettingsFile:
    """A file of settings as JSON; symbolic links are followed, so a ConfigMap's change is seen."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._settings: Settings | None = None
        self._fault = ""

    def latest(self) -> Settings | None:
        """What the file says, the same object until it changes; the last good content while it
        cannot be read, and `None` if it never could. Costs one `stat` where nothing has changed."""
        try:
            stat = self._path.stat()
            seen = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if seen == self._seen:
                return self._settings
            self._settings = Settings.model_validate_json(self._path.read_bytes())
            self._seen, self._fault = seen, ""
        except (OSError, ValidationError) as error:
            # Asked several times a second: each fault is told once.
            fault = f"{type(error).__name__}: {error}"
            if fault != self._fault:
                logger.error("%s cannot be used, the settings stay: %s", self._path.name, fault)
            self._fault = fault
        return self._settings


def write_settings(path: Path, settings: Settings) -> None:
    """Put settings in force; readers see all of the old ones or of the new ones.

    Raises:
        ConfigError: `settings_unwritable`; nothing was changed.
    """
    try:
        replace_private_file(path, settings.model_dump_json(indent=2).encode())
    except OSError as error:
        raise ConfigError(
            f"the settings cannot be written: {error.strerror}",
            code="settings_unwritable",
            hint=f"make room in {path.parent}; nothing was changed",
        ) from error
