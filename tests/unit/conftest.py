"""What holds for every unit test."""

from __future__ import annotations

import gc

from hypothesis import HealthCheck, settings

# Machines under load stall at random; that is no property of the code under test.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_collection_finish() -> None:
    """The collector no longer walks what the imports have made, again and again."""
    gc.freeze()
