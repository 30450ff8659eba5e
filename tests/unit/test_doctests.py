"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import warnings
from types import ModuleType

import pytest

import loadtest
import serving

WITHOUT_EXAMPLES = (
    "serving.__main__", "serving.app", "serving.cli", "serving.gateway_assembly", "serving.setup",
    "serving.adapters.replica_directory", "serving.adapters.serve_router",
    "serving.engine.deployment", "serving.engine.vllm_launch", "loadtest.locustfile",
    "loadtest.peers",
)  # fmt: skip
"""Modules that build a command line, or import Ray or Locust: no examples there."""


def modules_with_logic() -> list[str]:
    found = [
        module.name
        for package in (serving, loadtest)
        for module in pkgutil.walk_packages(
            package.__path__, f"{package.__name__}.", onerror=lambda name: None
        )
    ]
    names = (name for name in found if not name.startswith(WITHOUT_EXAMPLES))
    return ["k8s.monitoring.expressions", *sorted(names)]


def imported(name: str) -> ModuleType:
    with warnings.catch_warnings():
        # Ray 2.60 declares its settings in a way pydantic 2.14 deprecates; seen on first import.
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


@pytest.mark.parametrize("name", modules_with_logic())
def test_examples(name: str) -> None:
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder().find(imported(name)):
        if test.examples:  # Each run, even of none, looks for changes in every file of source.
            runner.run(test)
    assert runner.failures == 0


def test_the_policies_do_have_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in (
        "serving.routing.pipeline", "serving.planner.placement", "serving.tenancy.access",
        "serving.gateway.error_table", "serving.protocol.envelope", "serving.engine.vllm_shim",
    ):  # fmt: skip
        tests = finder.find(imported(name))
        assert any(test.examples for test in tests), name
