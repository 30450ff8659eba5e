"""The examples in docstrings are true."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "accounting",
        "benches.fidelity",
        "benches.scaleout",
        "client",
        "engines",
        "fake_engine",
        "machine",
        "report",
    ],
)
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"loadtest.{name}"))

    assert result.attempted > 0
    assert result.failed == 0
