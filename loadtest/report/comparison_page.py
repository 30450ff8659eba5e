"""A comparison of two runs as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable

from loadtest.report.html import Look, as_yaml, environment, run_facts
from loadtest.report.style import Plot
from loadtest.report.words import DASH
from loadtest.verdict.compare import Comparison, Side
from loadtest.verdict.effects import Effect

_MOST_REASONS = 50
_MARKS = {
    "better": ("pass", "✓"),
    "worse": ("fail", "✕"),
    "no difference": ("none", "="),
    "undecided": ("none", "?"),
}


def render_comparison(a: Side, b: Side, comparison: Comparison, plots: Iterable[Plot]) -> str:
    """The page."""
    template = environment().get_template("comparison.html.j2")
    return template.render(
        a=a, b=b, comparison=comparison, plots=tuple(plots), look=look_of(comparison),
        reasons=_reasons(comparison)[:_MOST_REASONS], marks=_MARKS, change=change,
        facts_a=run_facts(a.about), facts_b=run_facts(b.about),
        workload_a=as_yaml(a.about.workload), workload_b=as_yaml(b.about.workload),
    )  # fmt: skip


def look_of(comparison: Comparison) -> Look:
    """What comes of it in one line."""
    if comparison.problems:
        return Look("invalid", "!", "This compares no servers")
    worse, better = (_named(comparison, conclusion) for conclusion in ("worse", "better"))
    if worse:
        also = f"; better: {better}" if better else ""
        return Look("fail", "✕", f"B is worse: {worse}{also}")
    if better:
        return Look("pass", "✓", f"B is better: {better}")
    if any(effect.conclusion == "no difference" for effect in comparison.effects):
        return Look("none", "=", "No difference is shown")
    return Look("none", "?", "Undecided: too little was measured")


def _named(comparison: Comparison, conclusion: str) -> str:
    return ", ".join(e.name for e in comparison.effects if e.conclusion == conclusion)


def _reasons(comparison: Comparison) -> tuple[str, ...]:
    changed = (e.in_words() for e in comparison.effects if e.conclusion in ("worse", "better"))
    return (*comparison.problems, *comparison.notes, *changed)


def change(effect: Effect) -> tuple[str, str]:
    """How a figure changed, and its interval.

    >>> change(Effect("ttft_ms", "p99", 100.0, 120.0, "worse", 1.2, 1.1, 1.31))
    ('1.2 times', '1.1 to 1.31')
    """
    if effect.change is None:
        return DASH, ""
    if effect.is_difference:
        return f"{effect.change:+.3g}", f"{effect.low:+.3g} to {effect.high:+.3g}"
    return f"{effect.change:.3g} times", f"{effect.low:.3g} to {effect.high:.3g}"
