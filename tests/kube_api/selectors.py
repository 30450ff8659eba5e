"""Label and field selectors. Pure.

Source: k8s.io/apimachinery, pkg/labels/selector.go; pkg/fields/selector.go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from kube_api.status_bodies import bad_request

Matches = Callable[[Mapping[str, Any]], bool]

_SET = re.compile(r"(\S+)\s+(in|notin)\s+\(([^)]*)\)")
_EQUAL = re.compile(r"([^=!\s]+)\s*(==|=|!=)\s*(\S*)")
_FIELDS = {"metadata.name", "metadata.namespace", "spec.nodeName", "status.phase", "type", "reason",
           "involvedObject.name", "involvedObject.kind"}  # fmt: skip


def label_selector(text: str) -> Matches:
    """Whether an object's labels are as wanted.

    >>> label_selector("app=a,tier in (x, y),!old")({"metadata": {"labels": {"app": "a",
    ...     "tier": "y"}}})
    True
    """
    terms = [_label_term(term) for term in re.split(r",(?![^(]*\))", text) if term.strip()]
    return lambda value: all(term(value.get("metadata", {}).get("labels") or {}) for term in terms)


def _label_term(text: str) -> Callable[[Mapping[str, str]], bool]:
    text = text.strip()
    if match := _SET.fullmatch(text):
        key, names = match[1], {name.strip() for name in match[3].split(",")}
        if match[2] == "in":
            return lambda labels: labels.get(key) in names
        return lambda labels: labels.get(key) not in names
    if match := _EQUAL.fullmatch(text):
        key, operator, wanted = match.groups()
        if operator == "!=":
            return lambda labels: labels.get(key) != wanted
        return lambda labels: labels.get(key) == wanted
    if text.startswith("!"):
        return lambda labels: text[1:] not in labels
    return lambda labels: text in labels


def field_selector(text: str) -> Matches:
    """Whether an object's fields are as wanted; only those the server has an index of.

    Raises:
        ApiError: 400, another field.
    """
    terms: list[tuple[str, bool, str]] = []
    for term in filter(None, text.split(",")):
        match = _EQUAL.fullmatch(term.strip())
        if match is None or match[1] not in _FIELDS:
            raise bad_request(f"field label not supported: {term}")
        terms.append((match[1], match[2] != "!=", match[3]))
    return lambda value: all((_at(value, path) == wanted) is same for path, same, wanted in terms)


def _at(value: Any, path: str) -> str:
    for part in path.split("."):
        value = value.get(part, {}) if isinstance(value, Mapping) else {}
    return value if isinstance(value, str) else ""
