"""Nobody hits what another tenant has cached, whatever salt they send."""

from __future__ import annotations

import json
import string
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.types import TenantId
from serving.errors import RequestError
from serving.protocol.envelope import read_envelope, with_cache_salt
from serving.tenancy.cache_salt import CacheSalts

GROUPS = {"team": ["ann", "bob"], "solo": ["cat"]}
SALTS = CacheSalts(b"secret", GROUPS)
NAMES = st.sampled_from(["ann", "bob", "cat", "dan", "team", "solo", "('group', 'team')", ""])
CLIENT_SALTS = st.one_of(st.none(), st.text(min_size=1, max_size=40), NAMES.filter(bool))


def group_of(name: str) -> object:
    return next((group for group, names in GROUPS.items() if name in names), ("tenant", name))


@given(one=NAMES, other=NAMES, salt=CLIENT_SALTS, other_salt=CLIENT_SALTS)
def test_salts_are_equal_within_a_group_alone(
    one: str, other: str, salt: str | None, other_salt: str | None
) -> None:
    shares = group_of(one) == group_of(other) and salt == other_salt
    ours, theirs = SALTS.of(TenantId(one), salt), SALTS.of(TenantId(other), other_salt)
    assert (ours == theirs) == shares


@given(st.text(min_size=1, max_size=1024))
def test_a_salt_is_plain_and_as_long_as_engines_take(client_salt: str) -> None:
    salt = SALTS.of(TenantId("ann"), client_salt)
    assert len(salt) == 32
    assert set(salt) <= set(string.hexdigits.lower())
    assert CacheSalts(b"another", GROUPS).of(TenantId("ann"), client_salt) != salt


@pytest.mark.parametrize("client_salt", ["", 5, False, [], {}, "x" * 1025])
def test_what_is_no_salt_is_refused(client_salt: object) -> None:
    body = json.dumps({"model": "demo", "cache_salt": client_salt}).encode()
    for given_salt in (client_salt, read_envelope(body, max_depth=64).cache_salt):
        with pytest.raises(RequestError) as refused:
            SALTS.of(TenantId("ann"), given_salt)
        assert (refused.value.code, refused.value.param) == ("invalid_type", "cache_salt")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(
    fields=st.dictionaries(st.text() | st.just("cache_salt"), JSON_VALUES),
    indent=st.sampled_from([None, 1]),
    tail=st.sampled_from(["", " ", "\n}"[:1]]),
)
def test_only_the_salt_of_a_body_changes(
    fields: dict[str, object], indent: int | None, tail: str
) -> None:
    fields = {**fields, "model": "demo", "stream": True}
    body = (json.dumps(fields, indent=indent) + tail).encode()
    changed = with_cache_salt(body, "f00")
    assert json.loads(changed) == {**fields, "cache_salt": "f00"}
    assert read_envelope(changed, max_depth=64).cache_salt == "f00"


def test_a_salt_costs_one_copy_of_the_body() -> None:
    body = b'{"x":"%b"}' % (b"x" * 2**20)
    tracemalloc.start()
    try:
        with_cache_salt(body, "f00")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1.1 * len(body)
