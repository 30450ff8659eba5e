"""Asking the running platform's supervisor, as `galerne status` and `galerne apply` do."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from serving.adapters.run_record import RunRecord
from serving.adapters.secrets_file import read_secret
from serving.adapters.state_paths import StatePaths
from serving.core.wire import INTERNAL_TOKEN
from serving.errors import ConfigError

_TIMEOUT_S = 30.0


def running(paths: StatePaths) -> RunRecord:
    """The record of the running platform.

    Raises:
        ConfigError: `not_running`.
    """
    record = RunRecord.read(paths)
    if record is None:
        raise ConfigError(
            "Galerne is not running", code="not_running", hint="start it with `galerne up`"
        )
    return record


def ask(paths: StatePaths, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The supervisor's answer: to GET without a body, to POST with one.

    Raises:
        ConfigError: `not_running`, `control_unavailable`, or what the supervisor refuses.
    """
    record = running(paths)
    request = urllib.request.Request(  # noqa: S310 (a loopback address we wrote ourselves)
        record.control_url + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            INTERNAL_TOKEN.decode(): read_secret(paths.internal_token_file),
            "content-type": "application/json",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 (as above)
            document: dict[str, Any] = json.load(answer)
            return document
    except urllib.error.HTTPError as error:
        if error.code == REFUSED_STATUS:
            raise ConfigError(**json.load(error)) from error
        raise _silent(paths) from error
    except (OSError, http.client.HTTPException) as error:  # it may end while it answers
        raise _silent(paths) from error


REFUSED_STATUS = 409
"""The supervisor's answer to what it will not do; the body holds the fields of a ConfigError."""


def _silent(paths: StatePaths) -> ConfigError:
    return ConfigError(
        "Galerne is running but does not answer",
        code="control_unavailable",
        hint=f"see {paths.log_dir}; `galerne down` stops it",
    )
