"""What an HTML page consists of, and what holds for every page of ours."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import chain
from xml.etree import ElementTree

MOST_BYTES = 3_000_000
_REFERENCES = ("src", "href", "xlink:href", "srcset", "action", "data")


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text, a blank between two elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.text += " "
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, attribute: str) -> list[str]:
        """Of an attribute, wherever it is."""
        return [attributes[attribute] for _, attributes in self.found if attribute in attributes]

    def outward(self) -> Iterator[str]:
        """References that leave the page."""
        for reference in chain.from_iterable(map(self.values, _REFERENCES)):
            if not reference.startswith(("#", "data:")):
                yield reference
        for style in self.values("style"):
            yield from (url for url in re.findall(r"url\(([^)]*)", style) if url[0] != "#")


def assert_is_sound(page: str) -> None:
    """It holds together, can be used without seeing it, and asks nobody for anything."""
    elements = Elements(page)
    tags = Counter(tag for tag, _ in elements.found)
    assert (tags["h1"], tags["main"], tags["script"], tags["a"]) == (1, 1, 0, 0)
    assert [name for name, count in Counter(elements.values("id")).items() if count > 1] == []
    assert set(elements.values("aria-labelledby")) <= set(elements.values("id"))
    for tag, attributes in elements.found:
        assert tag != "th" or attributes["scope"]
        assert attributes.get("role") != "img" or attributes["aria-label"]
    assert list(elements.outward()) == []
    for drawn in re.findall(r"<svg .*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(drawn)
    assert len(page.encode()) < MOST_BYTES
