"""The shapes that SDKs parse."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.protocol.openai import error_body, error_event, model_entry, model_list

# Machines under load stall at random; that is no property of the code under test.
patient = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])


@patient
@given(st.text())
def test_an_error_event_is_one_event_whatever_the_message(message: str) -> None:
    body = error_body(message, error_type="t", code="c")

    for named in (False, True):
        event = error_event(body, named=named).decode()
        lines = event.removesuffix("\n\n").split("\n")
        assert event.endswith("\n\n")
        assert lines[:-1] == (["event: error"] if named else [])
        assert json.loads(lines[-1].removeprefix("data: ")) == body


def test_only_adapters_have_a_parent() -> None:
    base, tuned = model_entry("m", created=5), model_entry("t", created=5, parent="m")

    assert base == {"id": "m", "object": "model", "created": 5, "owned_by": "galerne"}
    assert tuned == {**base, "id": "t", "parent": "m"}
    assert model_list([base, tuned]) == {"object": "list", "data": [base, tuned]}
