"""Documents that people write: what is read, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from loadtest.documents import read_document
from serving.errors import ConfigError


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float


class Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    parts: dict[str, Part] = {}


def refused(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read_document(path, Document, what="plan")
    assert str(path) in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.yaml", "name: n\nparts: {chat: {weight: 2}}"),
        ("a.json", '{\n\t"name": "n", "parts": {"chat": {"weight": 2e0}}}'),
    ],
)
def test_yaml_and_json_say_the_same(tmp_path: Path, file: str, text: str) -> None:
    path = tmp_path / file
    path.write_text(text)

    found = read_document(path, Document, what="plan")

    assert found == Document(name="n", parts={"chat": Part(weight=2.0)})


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("a.yaml", b"", "it is empty"),
        ("a.yaml", b"- a", "it must be a mapping, not ['a']"),
        ("a.yaml", b"a: 1\na: 2", "the key 'a' appears twice"),
        ("a.yaml", b"a: \x07", "special characters"),
        ("a.yaml", b"\xff", "UTF-8"),
        ("a.json", b"", "Expecting value"),
        ("a.json", b'{"a": 1, "a": 2}', "the key 'a' appears twice"),
        ("a.json", b"null", "it is empty"),
        ("a.json", b"[" * 100_000, "maximum recursion depth"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, file: str, content: bytes, reason: str) -> None:
    path = tmp_path / file
    path.write_bytes(content)

    error = refused(path)

    assert (error.code, error.param) == ("plan_unreadable", "plan")
    assert reason in error.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none.yaml").message


def test_all_mistakes_are_named_and_the_first_located(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("parts: {chat: {weight: heavy}, batch: {wieght: 1}}")

    error = refused(path)

    assert (error.code, error.param) == ("plan_invalid", "name")
    assert "name: a value is required" in error.message
    assert "parts.chat.weight: 'heavy' is not valid" in error.message
    assert error.hint == "did you mean parts.batch.weight?"
