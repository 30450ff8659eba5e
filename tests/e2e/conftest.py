from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from pathlib import Path

import httpx
import pytest

from e2e.harness import Platform, log_tail
from serving.errors import ConfigError

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder's tests; run them after all others."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)
    items.sort(key=_turn)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show how the platform stands beside a failure, while it still runs."""
    report = yield
    if report.failed and call.when == "call":
        platforms = [p for p in getattr(item, "funcargs", {}).values() if isinstance(p, Platform)]
        report.sections += [("The platform", _story(platform)) for platform in platforms]
    return report


def _story(platform: Platform) -> str:
    try:
        status = json.dumps(platform.status(), indent=1)
    except (ConfigError, OSError) as error:
        status = repr(error)
    return f"{status}\n{log_tail(platform.state_dir)}"


def _turn(item: pytest.Item) -> int:
    """First what needs no platform of this folder's, then what starts its own, then what shares the
    one with real engines, so that it burdens no other, and last what kills its processes.

    Two Ray clusters at once also cost the second one 3 s: Ray's agent waits for a taken port.
    """
    if HERE not in item.path.parents:
        return 0
    if "platform" not in getattr(item, "fixturenames", ()):
        return 1
    return 3 if item.path.name == "test_lifecycle.py" else 2


@pytest.fixture(scope="session")
def platform(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    """One platform for the whole session, stopped at its end."""
    state_dir = tmp_path_factory.mktemp("galerne") / "state"
    running = Platform.start_real(state_dir)
    try:
        running.note_processes()
        yield running
    finally:
        if request.session.testsfailed:
            print(log_tail(state_dir))
        running.stop()


@pytest.fixture
def client(platform: Platform) -> Iterator[httpx.Client]:
    """An HTTP client with a valid API key."""
    with platform.client() as connected:
        yield connected
