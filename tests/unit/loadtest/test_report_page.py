"""What a report says, apart from its pictures."""

from dataclasses import replace

import pytest
from made_up_run import made_up_records, run_of
from page_elements import Elements, assert_is_sound

from loadtest.about import About
from loadtest.report.html import LOOKS, render
from loadtest.report.timelines import ttft_over_time
from loadtest.verdict.summary import Check, Summary, Verdict

RECORDS = made_up_records(duration_s=8.0)
RUN = run_of(RECORDS)
SUMMARY = RUN.summary


def text_of(summary: Summary, about: About = RUN.about) -> str:
    page = render(replace(RUN, summary=summary, about=about), ())
    assert_is_sound(page)
    return " ".join(Elements(page).text.split())


@pytest.mark.parametrize("verdict", LOOKS)
def test_the_verdict_and_its_reasons_are_words(verdict: Verdict) -> None:
    text = text_of(replace(SUMMARY, verdict=verdict, reasons=("first <b>", "second")))

    assert f"{LOOKS[verdict].sign} {LOOKS[verdict].word} first <b>" in text
    assert text.index("first <b>") < text.index("second") < text.index("Key figures")


def test_what_was_run_can_be_read() -> None:
    text = text_of(SUMMARY)

    for said in (
        "http://galerne.example:8000/v1", "2026-03-04 05:06:07 UTC", "Seed 7", "load-2 87 %",
        "versions galerne: 0.6.0, vllm: 0.32.0", "name: tenant-a/chat", "ttft_ms: p99: 1500.0",
    ):  # fmt: skip
        assert said in text


def test_every_objective_stands_beside_what_came_out() -> None:
    missed = Check("percentiles.ttft_ms.p99", 1500.0, None, met=False)

    text = text_of(replace(SUMMARY, checks=(missed, *SUMMARY.checks)))

    assert "percentiles.ttft_ms.p99 ≤ 1,500 — ✕ not measured" in text
    assert "percentiles.itl_ms.p99 ≤ 60 " in text
    assert "attainment_ratio ≥ 0.99 " in text
    assert "✓ met" in text


def test_a_browser_is_told_to_load_nothing() -> None:
    elements = Elements(render(RUN, ()))
    (policy,) = (
        attributes["content"]
        for _, attributes in elements.found
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )

    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")


def test_long_tables_say_what_they_leave_out() -> None:
    errors = {f"code_{number}": 1 for number in range(3000)}
    parts = tuple(replace(SUMMARY.overall, name=f"tenant-{number}") for number in range(3000))

    text = text_of(
        replace(SUMMARY, parts=parts, overall=replace(SUMMARY.overall, errors=errors)),
        RUN.about.model_copy(update={"workload": {"prompts": ["x" * 1_000_000]}}),
    )

    assert "2,951 more parts of the workload" in text
    assert "2,950 more codes" in text
    assert "(cut here)" in text


def test_a_run_that_was_stopped_says_so() -> None:
    assert "Stopped early." in text_of(SUMMARY, RUN.about.model_copy(update={"is_whole": False}))


def test_without_prometheus_the_caption_says_so() -> None:
    about = RUN.about.model_copy(update={"replicas": ()})

    assert "no Prometheus was named" in ttft_over_time(replace(RUN, about=about)).caption
    assert "Prometheus" not in ttft_over_time(RUN).caption
