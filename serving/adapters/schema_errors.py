"""What pydantic complains of in a document, in words for the one who wrote it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

_MAX_SHOWN_CHARS = 60


def by_path(
    details: Sequence[ErrorDetails], *, tree: Mapping[str, Any]
) -> dict[str, list[ErrorDetails]]:
    """Complaints by the dotted path of the value in `tree` that they are about: a union has one of
    each of its members."""
    problems: dict[str, list[ErrorDetails]] = {}
    for detail in details:
        problems.setdefault(_dotted(detail, tree=tree), []).append(detail)
    return problems


def _dotted(detail: ErrorDetails, *, tree: Mapping[str, Any]) -> str:
    """The value's path, without the parts pydantic adds for dictionary keys and union members."""
    node: Any = tree
    parts: list[str] = []
    for part in detail["loc"]:
        index = isinstance(node, list) and isinstance(part, int)
        inside = index or (isinstance(node, dict) and part in node)
        if not inside and detail["type"] != "missing":
            break
        parts.append(str(part))
        node = node[part] if inside else None
    return ".".join(parts)


def describe(path: str, details: Sequence[ErrorDetails]) -> str:
    """All complaints about the value at one path, as one sentence."""
    kind, text = details[0]["type"], details[0]["msg"]
    if kind == "extra_forbidden":
        return f"{path}: there is no such setting"
    if kind == "missing":
        return f"{path}: a value is required"
    if kind == "value_error":
        text = text.removeprefix("Value error, ")
        return f"{path}: {text}" if path else text
    allowed = " or ".join(dict.fromkeys(_allowed(detail) for detail in details))
    return f"{path}: {shortened(details[0]['input'])} is not valid; it must {allowed}"


def _allowed(detail: ErrorDetails) -> str:
    if detail["type"] == "model_type":
        return "be a mapping of settings"
    return detail["msg"].partition(" should ")[2] or detail["msg"]


def name_hint(
    problems: Mapping[str, Sequence[ErrorDetails]], *, root: type[BaseModel]
) -> str | None:
    """What the first unknown name of a document of `root` may be meant to be, if one is unknown."""
    for path, details in problems.items():
        if details[0]["type"] == "extra_forbidden":
            location = details[0]["loc"]
            return _meant(path, str(location[-1]), known=_known_names(root, location[:-1]))
    return None


def _meant(path: str, name: str, *, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {path.removesuffix(name)}{close[0]}?"
    return f"known here: {', '.join(known)}"


def _known_names(root: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Names of the settings of the section at `location`."""
    annotation: Any = root
    for part in location:
        if _is_section(annotation):
            annotation = _without_none(annotation.model_fields[part].annotation)
        else:
            annotation = get_args(annotation)[-1]  # a mapping, whose keys the operator chose
    return list(annotation.model_fields)


def _without_none(annotation: Any) -> Any:
    """The section of a setting that may also be absent."""
    alternatives = [kind for kind in get_args(annotation) if _is_section(kind)]
    return alternatives[0] if NoneType in get_args(annotation) and alternatives else annotation


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def shortened(value: object) -> str:
    """A value as an error message shows it: as Python writes it, cut when it is long."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[: _MAX_SHOWN_CHARS - 1]}…"
