"""Keys round-trip; everything else is refused, and refusals tell strangers nothing."""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serving.errors import AccessError, ConfigError
from serving.tenancy.access import (
    KeyRecord,
    KeyState,
    authenticate,
    bearer_token,
    issue_key,
    parse_key,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)

KEY, RECORD = issue_key("ci", now=NOW, expires_at=None, random_bytes=os.urandom)
RECORDS = {RECORD.id: RECORD}


def refusal(presented: str | None, record: KeyRecord = RECORD, *, now: datetime = NOW) -> str:
    with pytest.raises(AccessError) as caught:
        authenticate(presented, {record.id: record}.get, now)
    return caught.value.code


def random_source(seed: bytes) -> Callable[[int], bytes]:
    """Deterministic bytes: the same for the same seed."""
    stream = iter(seed)
    return lambda size: bytes(next(stream) for _ in range(size))


@given(
    name=st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=64),
    seed=st.binary(min_size=56, max_size=56),
)
def test_an_issued_key_authenticates_as_its_name(name: str, seed: bytes) -> None:
    key, record = issue_key(name, now=NOW, expires_at=None, random_bytes=random_source(seed))

    key_id, secret = parse_key(key)
    principal = authenticate(key, {record.id: record}.get, NOW)

    assert (key_id, len(key_id), len(secret)) == (record.id, 12, 43)
    assert (principal.key_id, principal.tenant) == (record.id, name)
    assert secret not in repr(record)


@given(index=st.integers(0, len(KEY) - 1), character=st.characters())
def test_a_key_with_one_other_character_is_refused(index: int, character: str) -> None:
    assume(KEY[index] != character)

    assert refusal(KEY[:index] + character + KEY[index + 1 :]) == "invalid_api_key"


@given(st.text(min_size=1))
def test_arbitrary_text_is_refused(text: str) -> None:
    assert refusal(text) == "invalid_api_key"


@pytest.mark.parametrize("presented", [KEY + "\n", " " + KEY, KEY[:-1], KEY + "A", KEY.upper()])
def test_near_misses_are_refused(presented: str) -> None:
    assert refusal(presented) == "invalid_api_key"


@pytest.mark.parametrize("presented", [None, ""])
def test_no_key_is_reported_as_missing(presented: str | None) -> None:
    assert refusal(presented) == "missing_api_key"


def test_malformed_unknown_and_wrong_keys_get_the_same_answer_and_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[tuple[int, int]] = []
    real_compare = hmac.compare_digest

    def compare(ours: bytes, theirs: bytes) -> bool:
        compared.append((len(ours), len(theirs)))
        return real_compare(ours, theirs)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    other, _ = issue_key("other", now=NOW, expires_at=None, random_bytes=os.urandom)
    wrong = f"gal_{RECORD.id}_{parse_key(other)[1]}"

    answers = set()
    for presented in ("garbage", other, wrong):
        with pytest.raises(AccessError) as caught:
            authenticate(presented, RECORDS.get, NOW)
        answers.add((caught.value.code, caught.value.message, caught.value.retryable))

    assert len(answers) == 1
    assert compared == [(32, 32)] * 3


def test_expiry_is_exclusive_and_told_only_to_the_holder() -> None:
    record = replace(RECORD, expires_at=NOW + HOUR)
    stranger = KEY[:-43] + "A" * 43

    assert authenticate(KEY, {record.id: record}.get, NOW + HOUR - timedelta(microseconds=1))
    assert refusal(KEY, record, now=NOW + HOUR) == "expired_api_key"
    assert refusal(stranger, record, now=NOW + HOUR) == "invalid_api_key"


def test_revocation_holds_even_if_its_time_lies_ahead_and_outlasts_expiry() -> None:
    record = replace(RECORD, revoked_at=NOW + HOUR, expires_at=NOW + 2 * HOUR)

    assert refusal(KEY, record) == "revoked_api_key"
    assert refusal(KEY[:-43] + "A" * 43, record) == "invalid_api_key"
    assert record.state(NOW + 3 * HOUR) is KeyState.REVOKED


def test_a_key_made_on_a_machine_with_a_fast_clock_works() -> None:
    assert authenticate(KEY, RECORDS.get, NOW - HOUR).tenant == "ci"


def test_equal_secrets_have_different_digests() -> None:
    salts = iter([bytes(8), bytes(32), b"a" * 16, bytes(8), bytes(32), b"b" * 16])
    records = [
        issue_key("x", now=NOW, expires_at=None, random_bytes=lambda _: next(salts))[1]
        for _ in range(2)
    ]

    assert records[0].digest != records[1].digest


@pytest.mark.parametrize(
    "name", ["", "x" * 65, " ci", "ci ", "a\nb", "a\x1bb", "a\u202eb", "\ud800"]
)
def test_unprintable_or_oversized_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        issue_key(name, now=NOW, expires_at=None, random_bytes=os.urandom)

    assert caught.value.code == "key_name_invalid"


def test_a_key_cannot_be_born_expired() -> None:
    with pytest.raises(ConfigError) as caught:
        issue_key("ci", now=NOW, expires_at=NOW, random_bytes=os.urandom)

    assert caught.value.code == "key_expiry_invalid"


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ([], None),
        ([(b"authorization", b"Bearer abc")], "abc"),
        ([(b"Authorization", b"bEaReR   abc ")], "abc"),
        ([(b"x-api-key", b"abc")], "abc"),
        ([(b"X-API-Key", b" abc ")], "abc"),
        ([(b"authorization", b"Bearer abc"), (b"x-api-key", b"abc")], "abc"),
        ([(b"authorization", b"Basic abc")], None),
        ([(b"authorization", b"Basic abc"), (b"x-api-key", b"k")], "k"),
        ([(b"authorization", b"Bearer"), (b"x-api-key", b"")], None),
        ([(b"authorization", b"Bearerabc")], None),
        ([(b"authorization", b"Bearer \xff\xe9")], "ÿé"),
        ([(b"cookie", b"Bearer abc")], None),
    ],
)
def test_bearer_token_reads_both_headers(
    headers: list[tuple[bytes, bytes]], token: str | None
) -> None:
    assert bearer_token(headers) == token


@pytest.mark.parametrize("second", [(b"x-api-key", b"b"), (b"authorization", b"Bearer b")])
def test_two_different_credentials_are_ambiguous(second: tuple[bytes, bytes]) -> None:
    with pytest.raises(AccessError) as caught:
        bearer_token([(b"authorization", b"Bearer a"), second])

    assert caught.value.code == "ambiguous_credentials"


NAMES = st.sampled_from([b"authorization", b"x-api-key", b"AUTHORIZATION"]) | st.binary()
VALUES = st.binary() | st.binary().map(lambda token: b"Bearer " + token)


@given(st.tuples(NAMES, VALUES))
def test_bearer_token_never_raises_on_a_single_arbitrary_header(
    header: tuple[bytes, bytes],
) -> None:
    token = bearer_token([header])

    assert token is None or refusal(token) == "invalid_api_key"


@given(st.lists(st.tuples(NAMES, VALUES)))
def test_bearer_token_raises_nothing_but_ambiguity(headers: list[tuple[bytes, bytes]]) -> None:
    try:
        bearer_token(headers)
    except AccessError as error:
        assert error.code == "ambiguous_credentials"  # noqa: PT017
