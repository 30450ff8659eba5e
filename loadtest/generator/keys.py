"""Secrets of a load test, which come from the environment and go nowhere else."""

from __future__ import annotations

import os
from collections.abc import Mapping

from loadtest.generator.messages import KEY_VARIABLE
from loadtest.workload.spec import Traffic
from serving.errors import ConfigError


def key_of(traffic: Traffic, environment: Mapping[str, str] = os.environ) -> str | None:
    """The API key that this part of a workload shows, `None` for none at all.

    Raises:
        ConfigError: it names a variable that is not set, or that holds no key.
    """
    if traffic.key_env is None:
        return secret_in(KEY_VARIABLE, environment)
    key = secret_in(traffic.key_env, environment)
    if key is None:
        raise ConfigError(
            f"environment variable {traffic.key_env} is not set",
            code="key_missing",
            param="key_env",
            hint=f"export {traffic.key_env}=… before the load test starts",
        )
    return key


def secret_in(name: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """The secret that this environment variable holds, `None` if it is not set or empty.

    Raises:
        ConfigError: what it holds cannot stand in a header.
    """
    return to_secret(environment.get(name, ""), name) or None


def to_secret(text: str, source: str) -> str:
    """A secret as it is sent, without the white space around it, such as a file's last newline.

    Args:
        source: the variable or option that the text comes from.

    Raises:
        ConfigError: it has other characters than visible ASCII, so that it cannot stand in a
            header. It is not repeated.

    >>> to_secret("gal_abc\\n", "GALERNE_API_KEY")
    'gal_abc'
    """
    secret = text.strip()
    if not all("!" <= character <= "~" for character in secret):
        raise ConfigError(
            f"{source} holds characters that no key has",
            code="bad_secret",
            param=source,
            hint="only visible ASCII characters, without spaces or line breaks in between",
        )
    return secret
