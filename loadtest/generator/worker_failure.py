"""What ends a worker, told as what it is: its coordinator's link, or something of its own."""

from __future__ import annotations

import aiohttp
import msgspec

from loadtest.generator.connection import SOCKETS_USED_UP
from loadtest.records import OUT_OF_SOCKETS
from serving.errors import EngineError, ServingError


def to_failure(
    error: aiohttp.ClientError | msgspec.DecodeError | OSError | ServingError,
) -> ServingError:
    """The failure for a person, with a code of its own for each of them.

    >>> to_failure(aiohttp.ServerDisconnectedError()).code
    'coordinator_lost'
    >>> to_failure(FileNotFoundError(2, "No such file or directory", "words.json")).message
    "this worker failed: [Errno 2] No such file or directory: 'words.json'"
    """
    match error:
        case ServingError():
            return error
        case msgspec.DecodeError():
            return EngineError(
                f"what answers is no coordinator of a load test: {error}", code="no_coordinator"
            )
        case OSError() if error.errno in SOCKETS_USED_UP:  # whichever connection it was for
            return EngineError(
                f"this worker has no file descriptors or ports left: {error}", code=OUT_OF_SOCKETS
            )
        case aiohttp.ClientError():  # before OSError: many of them are both
            return EngineError(
                f"the coordinator of this load test cannot be reached: {error}",
                code="coordinator_lost",
                retryable=True,
            )
    return EngineError(f"this worker failed: {error}", code="worker_failed")
