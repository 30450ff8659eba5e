"""The key file loses nothing and never lies; gateways follow it, or refuse."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from serving.adapters.key_store import KeyCache, KeyFile
from serving.core.types import ApiKeyId
from serving.errors import ConfigError, Overloaded
from serving.tenancy.access import KeyState, authenticate

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class ManualClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "keys.json"


@pytest.fixture
def keys(path: Path) -> KeyFile:
    return KeyFile(path, now=lambda: NOW)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cache(path: Path, clock: ManualClock) -> KeyCache:
    return KeyCache(path, refresh_s=1.0, clock=clock, fail_closed_s=5.0)


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        action()
    return caught.value.code


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_records_survive_the_file(keys: KeyFile, path: Path) -> None:
    key, record = keys.create("ci", expires_at=NOW + timedelta(days=1))

    records = KeyFile(path).list()

    assert records == (record,)
    assert authenticate(key, {r.id: r for r in records}.get, NOW).tenant == "ci"


def test_a_file_from_before_operators_has_none(keys: KeyFile, path: Path) -> None:
    keys.create("ci", is_operator=True)
    content = json.loads(path.read_text())
    del content["keys"][0]["is_operator"]
    path.write_text(json.dumps(content))

    assert [record.is_operator for record in keys.list()] == [False]


def test_the_file_holds_no_secret(keys: KeyFile, path: Path) -> None:
    key, record = keys.create("ci")

    content = path.read_text()

    assert json.loads(content)["version"] == 1
    assert key not in content
    assert key.removeprefix(f"gal_{record.id}_") not in content


def test_file_and_folder_are_private_and_no_litter_stays(keys: KeyFile, path: Path) -> None:
    keys.create("a")
    path.chmod(0o644)
    keys.create("b")

    assert mode_of(path) == 0o600
    assert mode_of(path.parent) == 0o700
    assert {file.name for file in path.parent.iterdir()} == {"keys.json", "keys.json.lock"}


def test_no_file_means_no_keys(keys: KeyFile) -> None:
    assert keys.list() == ()


def test_an_active_name_is_unique_and_free_again_afterwards(path: Path) -> None:
    later = KeyFile(path, now=lambda: NOW + timedelta(days=2))
    keys = KeyFile(path, now=lambda: NOW)
    keys.create("ci", expires_at=NOW + timedelta(days=1))

    assert code_of(lambda: keys.create("ci")) == "key_name_taken"
    later.create("ci")
    later.revoke("ci")
    later.create("ci")

    states = [r.state(NOW + timedelta(days=2)) for r in keys.list()]
    assert states == [KeyState.REVOKED, KeyState.REVOKED, KeyState.ACTIVE]


@pytest.mark.parametrize("by", ["id", "name"])
def test_revoking_marks_the_key_and_keeps_the_first_time(path: Path, by: str) -> None:
    _, record = KeyFile(path, now=lambda: NOW).create("ci")
    KeyFile(path).create("other")

    first = KeyFile(path, now=lambda: NOW).revoke(getattr(record, by))
    again = KeyFile(path, now=lambda: NOW + timedelta(hours=1)).revoke(record.id)

    assert first == again
    assert [r.revoked_at for r in KeyFile(path).list()] == [NOW, None]


def test_revoking_a_stranger_is_an_error_with_a_hint(keys: KeyFile) -> None:
    with pytest.raises(ConfigError) as caught:
        keys.revoke("nobody")

    assert caught.value.code == "key_not_found"
    assert caught.value.hint


def corrupt(content: dict[str, Any], **changes: object) -> bytes:
    [record] = content["keys"]
    return json.dumps({"version": 1, "keys": [record | changes]}).encode()


BROKEN: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "empty": lambda _: b"",
    "truncated": lambda content: json.dumps(content).encode()[:-3],
    "not json": lambda _: b"\xff\xfe keys",
    "not an object": lambda _: b"[]",
    "no version": lambda content: json.dumps({"keys": content["keys"]}).encode(),
    "version 2": lambda content: json.dumps(content | {"version": 2}).encode(),
    "no keys": lambda _: b'{"version": 1}',
    "nested": lambda _: b'{"x": ' + b"[" * 100_000,
    "twice": lambda content: json.dumps(content | {"keys": content["keys"] * 2}).encode(),
    "bad id": lambda content: corrupt(content, id="../x"),
    "short digest": lambda content: corrupt(content, digest="AAAA"),
    "naive time": lambda content: corrupt(content, expires_at="2030-01-01T00:00:00"),
    "revoked yes": lambda content: corrupt(content, revoked_at=True),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_file_is_an_error_and_is_left_alone(
    keys: KeyFile, path: Path, damage: str
) -> None:
    keys.create("ci")
    broken = BROKEN[damage](json.loads(path.read_bytes()))
    path.write_bytes(broken)

    assert code_of(keys.list) == "key_file_invalid"
    assert code_of(lambda: keys.create("new")) == "key_file_invalid"
    assert code_of(lambda: keys.revoke("ci")) == "key_file_invalid"
    assert path.read_bytes() == broken


def test_a_newer_version_is_named(keys: KeyFile, path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"version": 7, "records": {}}')

    with pytest.raises(ConfigError, match=r"version 7.*version 1"):
        keys.list()


def test_an_unreadable_file_is_an_error(keys: KeyFile, path: Path) -> None:
    path.mkdir(parents=True)

    assert code_of(keys.list) == "key_file_invalid"


def test_where_no_lock_can_be_taken_reading_works_and_writing_does_not(
    keys: KeyFile, path: Path
) -> None:
    # Stands for a read-only mount; permissions would not stop a test that runs as root.
    keys.create("ci")
    path.with_name("keys.json.lock").unlink()
    path.with_name("keys.json.lock").mkdir()

    assert len(keys.list()) == 1
    with pytest.raises(ConfigError) as caught:
        keys.revoke("ci")
    assert caught.value.code == "key_file_unwritable"
    assert "Kubernetes Secret" in caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_can_be_read(keys: KeyFile, path: Path) -> None:
    keys.create("ci")
    path.parent.chmod(0o500)

    assert len(keys.list()) == 1
    assert code_of(lambda: keys.revoke("ci")) == "key_file_unwritable"


def test_writing_through_a_link_keeps_the_link(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(tmp_path / "real" / "keys.json")

    KeyFile(path).create("ci")

    assert path.is_symlink()
    assert len(KeyFile(tmp_path / "real" / "keys.json").list()) == 1


def test_the_cache_follows_the_file(keys: KeyFile, cache: KeyCache) -> None:
    assert cache.refresh()
    _, record = keys.create("ci")
    assert cache.lookup(record.id) == record

    assert cache.refresh()
    assert cache.lookup(record.id) == record

    revoked = keys.revoke("ci")
    assert cache.refresh()
    assert cache.lookup(record.id) == revoked


def test_the_first_lookup_reads_the_file(keys: KeyFile, cache: KeyCache) -> None:
    _, record = keys.create("ci")

    assert cache.lookup(record.id) == record


def test_an_unchanged_file_is_not_read_again(keys: KeyFile, cache: KeyCache) -> None:
    _, created = keys.create("ci")
    cache.refresh()
    before = cache.lookup(created.id)
    cache.refresh()

    # Reading again would have made an equal record, not the same one.
    assert before is not None
    assert cache.lookup(created.id) is before


def test_a_swapped_link_is_noticed(tmp_path: Path, clock: ManualClock) -> None:
    # As kubelet updates a Secret: keys.json -> ..data/keys.json, ..data -> a dated folder.
    records = {}
    for folder in ("one", "two"):
        _, records[folder] = KeyFile(tmp_path / folder / "keys.json").create(folder)
    data, link = tmp_path / "..data", tmp_path / "keys.json"
    data.symlink_to("one")
    link.symlink_to("..data/keys.json")
    cache = KeyCache(link, refresh_s=1.0, clock=clock)
    cache.refresh()
    assert cache.lookup(records["one"].id) == records["one"]

    fresh = tmp_path / "..tmp"
    fresh.symlink_to("two")
    fresh.replace(data)
    cache.refresh()

    assert cache.lookup(records["one"].id) is None
    assert cache.lookup(records["two"].id) == records["two"]


def break_by_removal(path: Path) -> None:
    path.unlink()


def break_by_corruption(path: Path) -> None:
    path.write_bytes(b'{"version": 1, "keys": [')


@pytest.mark.parametrize("damage", [break_by_removal, break_by_corruption])
def test_the_cache_keeps_the_last_good_records_then_fails_closed_then_recovers(
    path: Path,
    keys: KeyFile,
    cache: KeyCache,
    clock: ManualClock,
    damage: Callable[[Path], None],
) -> None:
    _, record = keys.create("ci")
    good = path.read_bytes()
    cache.refresh()
    damage(path)

    clock.now_s += 5.0
    assert not cache.refresh()
    assert cache.lookup(record.id) == record

    clock.now_s += 0.1
    with pytest.raises(Overloaded) as caught:
        cache.lookup(ApiKeyId("aaaaaaaaaaaa"))
    assert caught.value.code == "key_store_unavailable"
    assert caught.value.retryable

    path.write_bytes(good)
    assert cache.refresh()
    assert cache.lookup(record.id) == record


def test_while_closed_lookups_look_at_the_file_once_per_interval(
    path: Path, keys: KeyFile, cache: KeyCache, clock: ManualClock
) -> None:
    keys.create("ci")
    cache.refresh()
    path.unlink()
    clock.now_s += 60.0

    for _ in range(10):
        with pytest.raises(Overloaded):
            cache.lookup(ApiKeyId("aaaaaaaaaaaa"))

    assert cache.num_failures == 1


def test_a_stalled_event_loop_does_not_close_a_healthy_store(
    keys: KeyFile, cache: KeyCache, clock: ManualClock
) -> None:
    _, record = keys.create("ci")
    cache.refresh()
    revoked = keys.revoke("ci")

    clock.now_s += 60.0

    assert cache.lookup(record.id) == revoked


def test_a_failure_is_logged_once_per_change(path: Path, keys: KeyFile, cache: KeyCache) -> None:
    keys.create("ci")
    good = path.read_bytes()
    cache.refresh()
    with capture_logs() as logs:
        for content in (b"", b"", b"[]", b"[]", good):
            path.write_bytes(content)
            cache.refresh()

    assert [log["event"] for log in logs] == [
        "key_store_unreadable",
        "key_store_unreadable",
        "key_store_recovered",
    ]
    assert cache.num_failures == 4
    assert str(path.parent) not in str(logs)


async def test_the_loop_survives_failures_and_ends_by_cancellation(
    path: Path, keys: KeyFile, clock: ManualClock
) -> None:
    _, record = keys.create("ci")
    contents = [b"garbage", b"", path.read_bytes()]  # noqa: ASYNC240
    steps = iter([partial(path.write_bytes, content) for content in contents])
    waited: list[float] = []
    done = asyncio.Event()

    async def sleep(duration_s: float) -> None:
        waited.append(duration_s)
        step = next(steps, None)
        if step is None:
            done.set()
            await asyncio.Future()
        else:
            step()

    cache = KeyCache(path, refresh_s=0.5, clock=clock, sleep=sleep)
    task = asyncio.create_task(cache.run())
    await done.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert waited == [0.5] * 4
    assert cache.num_failures == 2
    assert cache.lookup(record.id) == record
