"""Options that several commands share, as dataclasses instead of lists of parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints

_Command = Callable[..., None]


def grouped(command: _Command) -> _Command:
    """A command whose every field of a dataclass is an option of its own, as typer wants it.

    Typer reads the signature of a function; this one's has, in place of each parameter that is a
    dataclass, its fields, whose annotations say what the options are.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Place:
    ...     url: str
    ...     port: int = 80
    >>> @grouped
    ... def show(place: Place, *, loud: bool = False) -> None:
    ...     print(place, loud)
    >>> list(signature(show).parameters)
    ['url', 'port', 'loud']
    >>> show(url="here", loud=True)
    Place(url='here', port=80) True
    """
    hints = get_type_hints(command, include_extras=True)
    parameters = list(_spelled_out(signature(command).parameters, hints))
    groups = {name: kind for name, kind in hints.items() if is_dataclass(kind)}

    @functools.wraps(command)
    def call(**given: Any) -> None:
        for name, kind in groups.items():
            own = {field.name for field in fields(kind)} & given.keys()
            given[name] = kind(**{field: given.pop(field) for field in own})  # type: ignore[operator]
        command(**given)

    call.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    return call


def _spelled_out(
    parameters: Mapping[str, Parameter], hints: Mapping[str, Any]
) -> Iterator[Parameter]:
    for name, parameter in parameters.items():
        kind = hints[name]
        if not is_dataclass(kind):
            yield parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=kind)
            continue
        own = get_type_hints(kind, include_extras=True)
        for field in fields(kind):
            default = Parameter.empty if field.default is MISSING else field.default
            yield Parameter(
                field.name, Parameter.KEYWORD_ONLY, default=default, annotation=own[field.name]
            )
