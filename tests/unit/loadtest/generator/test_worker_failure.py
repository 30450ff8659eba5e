"""What ended a worker, by name."""

from __future__ import annotations

import errno

import aiohttp
import msgspec
import pytest

from loadtest.generator.worker_failure import to_failure
from serving.errors import ConfigError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (aiohttp.ClientConnectionError("refused"), "coordinator_lost"),
        (aiohttp.ClientOSError(errno.ECONNREFUSED, "refused"), "coordinator_lost"),
        (aiohttp.ClientOSError(errno.EMFILE, "too many open files"), "generator_out_of_sockets"),
        (aiohttp.ClientOSError(errno.EADDRNOTAVAIL, "no port"), "generator_out_of_sockets"),
        (OSError(errno.EMFILE, "timerfd_create failed"), "generator_out_of_sockets"),
        (OSError(errno.ENOSPC, "no space left"), "worker_failed"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "worker_failed"),
        (msgspec.DecodeError("no MessagePack"), "no_coordinator"),
        (ConfigError("no such trace", code="trace_unreadable"), "trace_unreadable"),
    ],
)
def test_each_has_its_own_code(error: aiohttp.ClientError | OSError, code: str) -> None:
    failure = to_failure(error)

    assert failure.code == code
    assert str(error) in failure.message
    assert failure.retryable is (code == "coordinator_lost")
