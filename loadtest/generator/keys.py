"""API keys of a workload, which come from the environment and go nowhere else."""

from __future__ import annotations

import os
from collections.abc import Mapping

from loadtest.generator.messages import KEY_VARIABLE
from loadtest.workload.spec import Traffic
from serving.errors import ConfigError


def key_of(traffic: Traffic, environment: Mapping[str, str] = os.environ) -> str | None:
    """The API key that this part of a workload shows, `None` for none at all.

    Raises:
        ConfigError: it names a variable that is not set.
    """
    if traffic.key_env is None:
        return environment.get(KEY_VARIABLE) or None
    key = environment.get(traffic.key_env)
    if not key:
        raise ConfigError(
            f"environment variable {traffic.key_env} is not set",
            code="key_missing",
            param="key_env",
            hint=f"export {traffic.key_env}=… before the load test starts",
        )
    return key
