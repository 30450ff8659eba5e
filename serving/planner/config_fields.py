"""Reading fields of a model's configuration, with errors that name them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from serving.errors import ConfigError

MAX_LAYERS = 10_000
_MAX_SIZE = 2**40
"""Beyond any model, so that a slip of the pen is no matter of memory."""


@dataclass(frozen=True, slots=True)
class Fields:
    """A configuration, or a section of one; `prefix` is where the section lies."""

    document: Mapping[str, Any]
    prefix: str = ""

    def get(self, name: str) -> Any:
        """The value, `None` if there is none."""
        return self.document.get(name)

    def with_defaults(self, defaults: Mapping[str, Any]) -> Fields:
        """The same, with values for fields that are not there at all."""
        return Fields({**defaults, **self.document}, self.prefix)

    def section(self, name: str) -> Fields:
        """The fields below `name`.

        Raises:
            ConfigError: there are none.
        """
        value = self.get(name)
        if not isinstance(value, Mapping):
            raise self.invalid(name, "must be an object")
        return Fields(value, f"{self.prefix}{name}.")

    def optional_section(self, name: str) -> Fields:
        """The same, empty where the field is missing or null.

        Raises:
            ConfigError: it is something else.
        """
        return Fields({}, f"{self.prefix}{name}.") if self.get(name) is None else self.section(name)

    def text(self, name: str) -> str:
        """
        Raises:
            ConfigError: it is missing, or no text.
        """
        value = self.get(name)
        if not isinstance(value, str):
            raise self.invalid(name, "must be a name")
        return value

    def size(self, name: str, *, null: int | None = None, most: int = _MAX_SIZE) -> int:
        """A positive integer; `null` where the field is there and null, if that is allowed.

        Raises:
            ConfigError: it is missing, or no such number.

        >>> Fields({"heads": 8}).size("heads")
        8
        >>> Fields({"heads": "8"}).size("heads")
        Traceback (most recent call last):
        serving.errors.ConfigError: heads must be a positive integer; it is '8'
        """
        value = self.get(name)
        if value is None and null is not None and name in self.document:
            return null
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
            raise self.invalid(name, "must be a positive integer")
        return value

    def count(self, name: str) -> int:
        """A whole number; 0 where the field is missing or null.

        Raises:
            ConfigError: it is no such number.
        """
        return self.size(name) if self.get(name) not in (None, 0) else 0

    def invalid(self, name: str, problem: str) -> ConfigError:
        """The error of a field that cannot be used."""
        found = f"; it is {self.get(name)!r}" if name in self.document else "; it is missing"
        return ConfigError(
            f"{self.prefix}{name} {problem}{found}",
            code="model_config_invalid",
            param=f"{self.prefix}{name}",
            hint="give the model's config.json or params.json as it was published",
        )

    def unknown(self, name: str, problem: str, known: Iterable[str] = ()) -> ConfigError:
        """The error of a field that says something nobody here understands."""
        names = ", ".join(known)
        return ConfigError(
            f"{self.prefix}{name} {self.get(name)!r} {problem}",
            code="model_config_unknown",
            param=f"{self.prefix}{name}",
            hint=f"known: {names}" if names else "start vLLM with it, and read what it logs",
        )
