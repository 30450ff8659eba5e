"""A report as a browser shows it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from chromium import Browser, running_chromium
from made_up_run import made_up_about, made_up_records, run_of
from matplotlib.image import imread

from loadtest.report.files import write_report
from loadtest.report.html import LOOKS
from loadtest.report.style import BLUE

# The browser may have to be installed first.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    async with running_chromium(tmp_path / "profile") as running:
        yield running


def colours(screenshot: bytes) -> set[int]:
    """Every colour of a picture, as 0xRRGGBB."""
    red, green, blue = np.moveaxis(np.rint(imread(BytesIO(screenshot))[..., :3] * 255), -1, 0)
    return set(np.unique(red * 65536 + green * 256 + blue).astype(int).tolist())


async def test_a_report_fits_a_phone_and_a_desk(browser: Browser, tmp_path: Path) -> None:
    records = made_up_records()
    summary = run_of(records).summary
    page = write_report(tmp_path, about=made_up_about(), summary=summary, records=records).page

    for width in (400, 1200):
        view = await browser.view(page, width=width)

        assert LOOKS[summary.verdict].word in view.text
        assert all(reason in view.text for reason in summary.reasons)
        assert view.content_width == width
        assert view.asked == (page.as_uri(),)
        assert view.complaints == ()
        seen = colours(view.screenshot)
        assert len(seen) > 200
        assert int(BLUE[1:], 16) in seen


async def test_what_a_report_must_not_do_would_be_noticed(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<img src="http://127.0.0.1:9/x.png"><p style="width: 900px">wide</p>')

    view = await browser.view(page, width=400)

    assert view.content_width > 400
    assert "http://127.0.0.1:9/x.png" in view.asked
    assert view.complaints
