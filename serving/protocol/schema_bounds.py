"""What a grammar that a client asks for may cost an engine to compile.

JSON schemas, regular expressions and grammars are compiled by the engine, the first step of it on
the event loop that serves everyone. Compilers write repetitions out: a number of ten digits is all
of a machine's memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeGuard

import msgspec

from serving.errors import RequestError

_ROOTS = frozenset({"schema", "json_schema", "json", "parameters", "input_schema"})
"""Keys below which a JSON schema stands, in every dialect."""
_REPEATS = frozenset(
    {"minItems", "maxItems", "minContains", "maxContains", "minProperties", "maxProperties"}
)
_LENGTHS = frozenset({"minLength", "maxLength"})
_MAX_LENGTH = 1_000_000
"""Lengths of strings are counted rather than written out by the compilers that vLLM prefers, and
real schemas have large ones; more than this exceeds any context."""
_MAX_PROPERTY_PAIRS = 512 * 512
"""xgrammar 0.2.8 makes a rule for each pair of optional properties of an object: 300 take 0.6 s,
1000 take 8 s and 130 MB."""
_IN_PLACE = ("allOf", "anyOf", "oneOf")
_PATTERN_TOKEN = re.compile(
    r"\\.|\[\^?+\]?+(?:\\.|[^\]\\])*+(?:\]|\\?\Z)|\{(\d{0,20})(?:,(\d{0,20}))?\}|.", re.DOTALL
)
"""An escape, a set of characters (closed by the end as well, so that each is read once), a
repetition, or any other character."""
_GRAMMAR_REPEAT = re.compile(r"(?:[{,~]|\.\.)\s*(\d+)")
_ANY_DIGITS = 9
_BEYOND = 1_000_000_000
"""More than every limit; longer numbers are not read."""


def check_schemas(field: str, raw: bytes, *, max_bytes: int, max_repeat: int) -> None:
    """Compiling what stands in this field costs an engine little.

    Args:
        field: the request's, as errors name it.
        raw: its JSON.
        max_bytes: longest JSON.
        max_repeat: how often all that repeats in it may repeat together.

    Raises:
        RequestError: `schema_too_large` or `schema_recursive`.

    >>> check_schemas("tools", b'{"parameters": {"minItems": 3}}', max_bytes=99, max_repeat=4)
    >>> endless = b'{"parameters": {"minItems": 1000000000}}'
    >>> try:
    ...     check_schemas("tools", endless, max_bytes=99, max_repeat=4)
    ... except RequestError as error:
    ...     print(error.code, error.param)
    schema_too_large tools
    """
    if len(raw) > max_bytes:
        raise _too_large(
            field, f"`{field}` has {len(raw)} bytes; a schema or grammar has at most {max_bytes}"
        )
    value = msgspec.json.decode(raw)
    _check_repeats(field, value, max_repeat=max_repeat)
    for root in _roots_in(value):
        _check_references(field, root)


def _check_repeats(field: str, value: object, *, max_repeat: int) -> None:
    num_repeats = 0
    num_pairs = 0
    for key, inner in _pairs_in(value):
        num_repeats += _repeats_of(key, inner)
        if key == "properties" and isinstance(inner, dict):
            num_pairs += len(inner) ** 2
        if key in _LENGTHS and _is_number(inner) and inner > _MAX_LENGTH:
            raise _too_large(field, f"`{key}` in `{field}` is beyond {_MAX_LENGTH}; leave it out")
    if num_repeats > max_repeat:
        raise _too_large(
            field,
            f"The schemas in `{field}` repeat something {num_repeats} times in all; "
            f"{max_repeat} are accepted: lower minItems, maxItems and the {{n,m}} of patterns",
        )
    if num_pairs > _MAX_PROPERTY_PAIRS:
        raise _too_large(
            field, f"Objects in `{field}` have too many properties; split them into several objects"
        )


def _repeats_of(key: str, value: object) -> int:
    """How often a compiler writes out what this keyword repeats."""
    if key in _REPEATS and _is_number(value):
        return max(0, int(min(value, _BEYOND)))
    if key in ("pattern", "regex") and isinstance(value, str):
        return pattern_repeats(value)
    if key == "patternProperties" and isinstance(value, dict):
        return sum(pattern_repeats(pattern) for pattern in value)
    if key == "grammar" and isinstance(value, str):
        return sum(_to_count(digits) for digits in _GRAMMAR_REPEAT.findall(value))
    return 0


def pattern_repeats(pattern: str) -> int:
    """How many copies the `{n,m}` of a regular expression ask for, groups in groups multiplied.

    >>> pattern_repeats(r"[0-9]{4}-[0-9]{2}")
    6
    >>> pattern_repeats("((a{10}){1,100})")
    1000
    >>> pattern_repeats("[{9}]a+")
    0
    """
    sums = [0]
    atom = 0
    for token in _PATTERN_TOKEN.finditer(pattern):
        text = token[0]
        if text == "(":
            sums.append(0)
        elif text == ")" and len(sums) > 1:
            atom = sums.pop()
            sums[-1] += atom
        elif token[1] is not None:
            times = max(_to_count(token[1]), _to_count(token[2] or ""))
            sums[-1] += max(times * max(atom, 1) - atom, 0)
            atom = max(times * max(atom, 1), atom)
        else:
            atom = 0
    return min(sum(sums), _BEYOND)


def _check_references(field: str, root: dict[str, Any]) -> None:
    """No `$ref` comes back to itself without anything of a document in between.

    Such a schema has no meaning, and engines fail while they generate. Recursion through
    properties or items is fine.

    Source: JSON Schema 2020-12, Core, section 9.4.1 "Guarding Against Infinite Recursion".
    """
    done: set[int] = set()
    for schema in _objects_in(root):
        if "$ref" in schema and _comes_back(root, schema, done):
            raise RequestError(
                f"A `$ref` in `{field}` leads back to itself; put `properties` or `items` between",
                code="schema_recursive",
                param=field,
            )


def _comes_back(root: dict[str, Any], start: dict[str, Any], done: set[int]) -> bool:
    """Whether schemas that apply to the same place as `start` apply themselves again."""
    open_ids: set[int] = set()
    stack: list[tuple[dict[str, Any], bool]] = [(start, False)]
    while stack:
        schema, is_left = stack.pop()
        if is_left:
            open_ids.discard(id(schema))
            done.add(id(schema))
        elif id(schema) in open_ids:
            return True
        elif id(schema) not in done:
            open_ids.add(id(schema))
            stack.append((schema, True))
            stack.extend((inner, False) for inner in _in_place(root, schema))
    return False


def _in_place(root: dict[str, Any], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Schemas that apply to whatever `schema` applies to, whether it wants or not."""
    target = _resolve(root, schema.get("$ref"))
    if target is not None:
        yield target
    for keyword in _IN_PLACE:
        inner = schema.get(keyword)
        # An alternative that loops is one the others make up for.
        if isinstance(inner, list) and (keyword == "allOf" or len(inner) == 1):
            yield from (item for item in inner if isinstance(item, dict))


def _resolve(root: dict[str, Any], reference: object) -> dict[str, Any] | None:
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    place: Any = root
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(place, dict):
            place = place.get(name)
        elif isinstance(place, list) and name.isascii() and name.isdigit():
            place = place[int(name)] if len(name) < _ANY_DIGITS and int(name) < len(place) else None
        else:
            return None
    return place if isinstance(place, dict) else None


def _roots_in(value: object) -> Iterator[dict[str, Any]]:
    """The outermost schemas; one within another resolves its references in the other."""
    pending = [value]
    while pending:
        inner = pending.pop()
        if isinstance(inner, list):
            pending.extend(inner)
        elif isinstance(inner, dict):
            for key, item in inner.items():
                document = _embedded(item) if key in _TEXTS else item
                if key in _ROOTS and isinstance(document, dict) and "schema" not in document:
                    yield document
                else:
                    pending.append(document)


_TEXTS = frozenset({"json", "structural_tag"})
"""Keys whose text is JSON again."""


def _embedded(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return value


def _pairs_in(value: object) -> Iterator[tuple[str, Any]]:
    for inner in _objects_in(value):
        yield from inner.items()


def _objects_in(value: object) -> Iterator[dict[str, Any]]:
    """Every object in a JSON value, those in texts that are JSON included."""
    pending = [value]
    while pending:
        inner = pending.pop()
        if isinstance(inner, dict):
            yield inner
            pending.extend(
                _embedded(item) if key in _TEXTS else item
                for key, item in inner.items()
                if not isinstance(item, str) or key in _TEXTS
            )
        elif isinstance(inner, list):
            pending.extend(item for item in inner if isinstance(item, dict | list))


def _to_count(digits: str) -> int:
    return int(digits or 0) if len(digits) <= _ANY_DIGITS else _BEYOND


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _too_large(field: str, message: str) -> RequestError:
    return RequestError(message, code="schema_too_large", param=field)
