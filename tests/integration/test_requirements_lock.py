"""The lock is complete for what is installed here."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
UNFIT = {"torchvision", "torchaudio", "torchcodec"}
"""They do not match the CPU build of torch; see the docstring of `serving.setup.bootstrap`."""


def locked() -> set[str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if not line.startswith("#")]
    assert all(str(requirement.specifier).startswith("==") for requirement in requirements)
    return {canonicalize_name(requirement.name) for requirement in requirements}


def needed() -> set[str]:
    """Names of everything that pyproject.toml asks for, followed through installed metadata."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    todo = [*map(Requirement, project["dependencies"] + extras["cpu"] + extras["dev"])]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        requirement = todo.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key[0] in UNFIT or key in seen:
            continue
        seen.add(key)
        todo += dependencies(requirement)
    return {name for name, _ in seen}


def dependencies(parent: Requirement) -> list[Requirement]:
    try:
        found = [Requirement(text) for text in requires(parent.name) or ()]
    except PackageNotFoundError:
        return []
    extras = [{"extra": extra} for extra in ("", *parent.extras)]
    return [each for each in found if not each.marker or any(map(each.marker.evaluate, extras))]


def test_the_lock_holds_every_dependency_and_none_of_the_unfit_ones() -> None:
    names = locked()
    assert needed() - names == set()
    assert names & UNFIT == set()
    assert "setuptools" in names
