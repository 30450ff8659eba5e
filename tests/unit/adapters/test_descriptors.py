"""A process short of descriptors refuses requests while it still can."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import suppress

import pytest

from serving.adapters.descriptors import DescriptorGuard

LIMIT = 400


@pytest.fixture(autouse=True)
def _low_limit() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def hoard() -> Iterator[list[int]]:
    """Descriptors that the test closes at its end."""
    taken: list[int] = []
    yield taken
    for descriptor in taken:
        os.close(descriptor)


def test_a_shortage_is_told_once_and_ends(
    hoard: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    guard = DescriptorGuard(lambda: now)
    assert guard.has_room()
    assert guard.problems() == []

    hoard += [os.dup(0) for _ in range(LIMIT - 100)]
    assert not guard.has_room()
    assert not guard.has_room()
    (problem,) = guard.problems()
    assert problem == "file descriptors: the limit of 400 is near, 2 requests refused"
    assert caplog.messages == ["file descriptors are short (limit 400): requests get 503"]

    os.close(hoard.pop(0))
    assert guard.has_room(), "a gap below is room"
    hoard.append(os.dup(0))
    while len(hoard) > 10:
        os.close(hoard.pop())
    assert guard.has_room()
    assert guard.problems(), "told for a while longer"
    now = 31.0
    assert guard.problems() == []
    assert caplog.messages[-1] == "file descriptors suffice; 2 requests were refused"


def test_no_descriptor_at_all_is_no_room(hoard: list[int]) -> None:
    with suppress(OSError):
        while True:
            hoard.append(os.dup(0))
    assert not DescriptorGuard(lambda: 0.0).has_room()
