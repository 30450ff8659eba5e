"""A run as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from loadtest.about import About
from loadtest.report.key_figures import key_figures
from loadtest.report.meanings import meaning
from loadtest.report.run import Run
from loadtest.report.style import Plot
from loadtest.report.svg import inline_svg
from loadtest.report.words import exact, moment, number, percent, span, whole
from loadtest.verdict.summary import Distribution, Part, Verdict

_TEMPLATES = Path(__file__).parent / "templates"
_MOST_ROWS = 50
_MOST_YAML_CHARS = 20_000
_PERCENTILES = ("mean", "p50", "p90", "p95", "p99", "max")


class Look(NamedTuple):
    """How a verdict is shown: never by colour alone."""

    kind: str
    sign: str
    word: str


LOOKS: Mapping[Verdict, Look] = {
    "pass": Look("pass", "✓", "Pass"),
    "fail": Look("fail", "✕", "Fail"),
    "invalid": Look("invalid", "!", "Invalid"),
    "none": Look("none", "?", "No verdict"),
}


def render(run: Run, plots: Iterable[Plot]) -> str:
    """The page. Its size is bounded, whatever the run: long tables say what they leave out."""
    about, summary = run.about, run.summary
    shown = summary.parts[: _MOST_ROWS - 1] if len(summary.parts) > 1 else ()
    errors = sorted(summary.overall.errors.items(), key=lambda item: (-item[1], item[0]))
    template = environment().get_template("report.html.j2")
    return template.render(
        about=about, summary=summary, all=summary.overall, plots=tuple(plots),
        look=LOOKS[summary.verdict], reasons=summary.reasons[:_MOST_ROWS],
        key_figures=key_figures(summary.overall), most_rows=_MOST_ROWS,
        percentiles=_PERCENTILES, measures=_measures, groups=(summary.overall, *shown),
        parts_left_out=len(summary.parts) - len(shown) if shown else 0,
        errors=errors[:_MOST_ROWS],
        run_facts=run_facts(about), machine_facts=tuple(_flat(about.machine)),
        workload_yaml=as_yaml(about.workload), slo_yaml=as_yaml(about.slo),
    )  # fmt: skip


@cache
def environment() -> Environment:
    """Of the templates: whatever comes from a run is escaped, and a missing name is an error."""
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {
        "exact": exact, "inline_svg": inline_svg, "meaning": meaning, "moment": moment,
        "number": number, "seconds": lambda seconds: span(1000 * seconds), "span": span,
        "whole": whole,
    }  # fmt: skip
    made.globals["percent"] = percent
    return made


def run_facts(about: About) -> tuple[tuple[str, str], ...]:
    """Where a run went, when, and what it takes to repeat it."""
    return (
        ("Server", about.url),
        ("Began", moment(about.started_at)),
        ("Requests were due for", span(1000 * about.duration_s)),
        ("Seed", str(about.seed)),
        ("Workers", whole(len(about.workers))),
        ("Whole", "yes" if about.is_whole else "no, it was stopped early"),
    )


def _measures(part: Part) -> tuple[tuple[str, Distribution | None], ...]:
    return (
        ("TTFT", part.ttft_ms),
        ("ITL", part.itl_ms),
        ("TPOT", part.tpot_ms),
        ("latency", part.latency_ms),
        ("send lag", part.send_lag_ms),
    )


def _flat(mapping: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Names and values, those of a mapping within it as `name: value`."""
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            yield name, ", ".join(f"{key}: {inner}" for key, inner in value.items())
        else:
            yield name, str(value)


def as_yaml(document: Mapping[str, Any] | None) -> str:
    """A document as a person writes it, cut where it is very long; empty of none."""
    if document is None:
        return ""
    text = yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True)
    return text if len(text) <= _MOST_YAML_CHARS else text[:_MOST_YAML_CHARS] + "…\n(cut here)"
