"""`galerne keys` as scripts and people see it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from serving.adapters.key_store import KeyFile
from serving.cli.console import report
from serving.cli.keys import app
from serving.errors import AccessError, ConfigError
from serving.tenancy.access import authenticate


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "keys.json"


@pytest.fixture(autouse=True)
def key_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyFile:
    monkeypatch.setenv("GALERNE_STATE_DIR", str(path.parent))
    return KeyFile(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def run_json(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def failure(*arguments: str) -> ConfigError:
    error = run(*arguments).exception
    assert isinstance(error, ConfigError)
    return error


def test_create_prints_a_working_key_as_json(key_file: KeyFile) -> None:
    created = run_json("create", "--name", "ci")

    assert set(created) == {"id", "key", "name", "created_at", "expires_at"}
    assert created["expires_at"] is None
    records = {record.id: record for record in key_file.list()}
    principal = authenticate(created["key"], records.get, datetime.now(UTC))
    assert (principal.key_id, principal.tenant) == (created["id"], "ci")


def test_an_operator_s_key_is_one(key_file: KeyFile) -> None:
    created = run_json("create", "--name", "ann", "--operator")
    run_json("create", "--name", "ci")

    records = {record.id: record for record in key_file.list()}
    assert authenticate(created["key"], records.get, datetime.now(UTC)).is_operator
    assert {row["name"]: row["operator"] for row in run_json("list")} == {"ann": True, "ci": False}
    assert "operator" in run("list").stdout


@pytest.mark.parametrize(
    ("text", "life"),
    [
        ("90d", timedelta(days=90)),
        ("12h", timedelta(hours=12)),
        ("30m", timedelta(minutes=30)),
        ("999999d", timedelta(days=999_999)),
    ],
)
def test_expires_in_sets_the_expiry(text: str, life: timedelta) -> None:
    created = run_json("create", "--name", "ci", "--expires-in", text)

    begin, end = (datetime.fromisoformat(created[at]) for at in ("created_at", "expires_at"))
    assert abs(end - begin - life) < timedelta(minutes=1)


def test_a_key_opens_nothing_once_it_has_expired(key_file: KeyFile) -> None:
    created = run_json("create", "--name", "ci", "--expires-in", "30m")
    records = {record.id: record for record in key_file.list()}
    end = datetime.fromisoformat(created["expires_at"])

    assert authenticate(created["key"], records.get, end - timedelta(seconds=1))
    with pytest.raises(AccessError) as refused:
        authenticate(created["key"], records.get, end)
    assert refused.value.code == "expired_api_key"
    assert "expired" in refused.value.message


@pytest.mark.parametrize(
    "text", ["", "30", "d", "0d", "-1d", "1.5h", "3w", "9999999d", "\u0663d", "1d 2h"]
)
def test_a_bad_duration_names_the_option(
    text: str, key_file: KeyFile, capsys: pytest.CaptureFixture[str]
) -> None:
    error = failure("create", "--name", "ci", f"--expires-in={text}")

    assert "--expires-in" in error.message
    assert "\n" not in error.message
    assert report(error) == 2
    assert key_file.list() == ()


def test_people_get_the_key_alone_on_stdout_and_a_warning() -> None:
    result = run("create", "--name", "ci")

    assert result.stdout.startswith("gal_")
    assert result.stdout.count("\n") == 1
    assert "cannot be shown again" in result.stderr


def test_list_shows_states_and_never_secrets(path: Path) -> None:
    past = datetime.now(UTC) - timedelta(days=2)
    KeyFile(path, now=lambda: past).create("old", expires_at=past + timedelta(days=1))
    secrets = [run_json("create", "--name", name)["key"][-43:] for name in ("a", "b")]
    run_json("revoke", "b")

    listed = run_json("list")
    table = run("list").stdout

    assert {entry["name"]: entry["state"] for entry in listed} == {
        "old": "expired",
        "a": "active",
        "b": "revoked",
    }
    assert set(listed[0]) == {
        "id", "name", "state", "operator", "created_at", "expires_at", "revoked_at",
    }  # fmt: skip
    assert all(entry["id"] in table and entry["state"] in table for entry in listed)
    assert not any(secret in table + json.dumps(listed) for secret in secrets)


def test_an_empty_list_is_json_too() -> None:
    assert run_json("list") == []
    assert "galerne keys create" in run("list").stderr


@pytest.mark.parametrize("name", ["[red]x[/red]", ":warning:", "[/]", "Zoë"])
def test_names_are_shown_as_they_are(name: str) -> None:
    run_json("create", "--name", name)

    assert name in run("list").stdout
    assert name in run("revoke", name).stderr


@pytest.mark.parametrize("by", ["id", "name"])
def test_revoke_by_id_or_name(by: str, key_file: KeyFile) -> None:
    created = run_json("create", "--name", "ci")

    revoked = run_json("revoke", created[by])

    assert (revoked["id"], revoked["state"]) == (created["id"], "revoked")
    assert key_file.list()[0].revoked_at == datetime.fromisoformat(revoked["revoked_at"])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("revoke", "nobody"), "key_not_found"),
        (("create", "--name", "taken"), "key_name_taken"),
        (("create", "--name", "a\nb"), "key_name_invalid"),
        (("create", "--name", ""), "key_name_invalid"),
    ],
)
def test_failures_are_config_errors(arguments: tuple[str, ...], code: str) -> None:
    run_json("create", "--name", "taken")

    assert failure(*arguments).code == code


@pytest.mark.parametrize("command", ["create", "list", "revoke"])
def test_help_has_an_example(command: str) -> None:
    result = run(command, "--help")

    assert result.exit_code == 0
    assert f"galerne keys {command}" in result.stdout
