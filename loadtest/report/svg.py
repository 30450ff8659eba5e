"""Figures as SVG that is part of a page: in its colours, without its ids."""

from __future__ import annotations

import re
from io import StringIO

from markupsafe import Markup

from loadtest.report.style import INK, RULE, Plot, house_style

_IDS = re.compile(r'(?<= id=")|(?<=xlink:href="#)|(?<=url\(#)')
_SIZE = re.compile(r'(?<=<svg )([^>]*?)width="[^"]*" height="[^"]*"')
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)


@house_style
def inline_svg(plot: Plot) -> Markup:
    """An `svg` element. Text and grid follow the page's `--ink` and `--rule`; ids begin with the
    plot's name, so that those of several plots differ; its width is that of what holds it."""
    written = StringIO()
    plot.figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    drawn = written.getvalue()
    element = _METADATA.sub("", drawn[drawn.index("<svg ") :])
    element = _IDS.sub(f"{plot.name}-", _SIZE.sub(r"\1", element, count=1))
    # Only drawn text is in it, as paths, so nothing of the run is left to be escaped.
    return Markup(element.replace(INK, "var(--ink)").replace(RULE, "var(--rule)"))
