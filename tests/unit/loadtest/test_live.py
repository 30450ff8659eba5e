"""Progress in the terminal."""

from dataclasses import replace
from io import StringIO

from rich.console import Console

from loadtest.report.live import Progress, line, panel, showing

PROGRESS = Progress(
    elapsed_s=30.0, total_s=120.0, offered_rps=41.3, in_flight=57, completed=1190, failed=12,
    goodput_rps=38.9, ttft_p50_ms=84.0, ttft_p99_ms=1240.0, send_lag_ms=0.41, replicas=3,
)  # fmt: skip
EARLY = replace(
    PROGRESS, elapsed_s=0.2, total_s=None, ttft_p50_ms=None, ttft_p99_ms=None,
    send_lag_ms=None, replicas=None,
)  # fmt: skip


def shown(progress: Progress, *, width: int = 100) -> str:
    console = Console(record=True, width=width, file=StringIO(), force_terminal=True)
    console.print(panel(progress))
    return console.export_text()


def test_the_panel_holds_every_figure_under_its_name() -> None:
    rows = [text.strip("│ ").split("  ") for text in shown(PROGRESS).splitlines()[1:-1]]
    names, counts, more_names, times, _, left = [[c.strip() for c in row if c] for row in rows]

    assert dict(zip(names + more_names, counts + times, strict=True)) == {
        "offered": "41.3/s", "goodput": "38.9/s", "in flight": "57", "completed": "1,190",
        "failed": "12", "TTFT p50": "84 ms", "TTFT p99": "1.24 s", "send lag": "0.41 ms",
        "replicas": "3",
    }  # fmt: skip
    assert left[-1] == "1.5 min left"


def test_the_panel_fits_a_terminal_of_eighty_columns() -> None:
    busy = replace(PROGRESS, completed=12_345_678, in_flight=20_000, offered_rps=5012.0)

    lines = shown(busy, width=80).splitlines()

    assert max(map(len, lines)) <= 80
    assert len(lines) == 8


def test_what_is_not_known_is_left_out() -> None:
    text = shown(EARLY)

    assert text.splitlines()[4].split()[1:4] == ["—", "—", "—"]
    assert "replicas" not in text
    assert "left" not in text


def test_after_the_last_request_the_answers_are_waited_for() -> None:
    assert "waiting for the last answers" in shown(replace(PROGRESS, elapsed_s=121.0))


def test_a_line_says_the_same() -> None:
    assert line(PROGRESS) == (
        "30 of 120 s: offered 41.3/s, goodput 38.9/s, in flight 57, completed 1,190, failed 12, "
        "TTFT p50 84 ms, TTFT p99 1.24 s, send lag 0.41 ms, replicas 3"
    )


def test_without_a_terminal_there_is_a_line_every_five_seconds() -> None:
    written = StringIO()
    with showing(Console(file=written, force_terminal=False)) as show:
        for second in range(12):
            show(replace(PROGRESS, elapsed_s=float(second)))

    assert [text.split(":")[0] for text in written.getvalue().splitlines()] == [
        "0 of 120 s", "5 of 120 s", "10 of 120 s",
    ]  # fmt: skip


def test_in_a_terminal_the_panel_is_kept_up_to_date() -> None:
    written = StringIO()
    console = Console(file=written, force_terminal=True, width=100)
    with showing(console) as show:
        show(EARLY)
        show(PROGRESS)

    assert "1,190" in written.getvalue()
