"""`make help` and the tables of benches name all there are."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from loadtest.bench import parser as bench_parser
from loadtest.scenarios.__main__ import parser as scenario_parser

ROOT = Path(__file__).parents[3]


def commands(parser: argparse.ArgumentParser) -> list[str]:
    """What its usage offers first, in alphabetical order."""
    (offered,) = re.findall(r"\{([\w,]+)\}", parser.format_usage())
    return sorted(offered.split(","))


@pytest.mark.parametrize(
    ("variable", "parser"), [("BENCH", bench_parser()), ("SCENARIO", scenario_parser())]
)
def test_make_help_names_every(variable: str, parser: argparse.ArgumentParser) -> None:
    (named,) = re.findall(rf"## .*\({variable}=([\w|]+)", (ROOT / "Makefile").read_text())

    assert sorted(named.split("|")) == commands(parser)


def test_the_readme_describes_every_bench() -> None:
    table = (ROOT / "loadtest" / "README.md").read_text().partition("## ")[0]

    assert sorted(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == commands(bench_parser())
