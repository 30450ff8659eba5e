"""Keys and tokens out of the environment."""

from __future__ import annotations

import pytest

from loadtest.generator.keys import key_of, secret_in
from loadtest.generator.messages import KEY_VARIABLE
from loadtest.workload.spec import Traffic
from serving.errors import ConfigError


def traffic(key_env: str | None) -> Traffic:
    return Traffic.model_construct(model="m", key_env=key_env)


@pytest.mark.parametrize("text", ["gal_abc", "gal_abc\n", " gal_abc\r\n"])
def test_white_space_around_a_key_is_no_part_of_it(text: str) -> None:
    assert key_of(traffic("TENANT"), {"TENANT": text}) == "gal_abc"
    assert key_of(traffic(None), {KEY_VARIABLE: text}) == "gal_abc"


@pytest.mark.parametrize(
    "text", ["hush\r\nx-other: 1", "hush hush", "hushé", "hush\udcff", "hush\0"]
)
def test_what_cannot_stand_in_a_header_is_refused_unseen(text: str) -> None:
    with pytest.raises(ConfigError, match="TENANT holds characters") as refused:
        key_of(traffic("TENANT"), {"TENANT": text})

    assert "hush" not in str(refused.value) + refused.value.hint


@pytest.mark.parametrize("environment", [{}, {"TENANT": ""}, {"TENANT": "\n"}])
def test_a_variable_that_a_workload_names_must_be_set(environment: dict[str, str]) -> None:
    assert secret_in("TENANT", environment) is None
    assert key_of(traffic(None), environment) is None
    with pytest.raises(ConfigError, match="TENANT is not set"):
        key_of(traffic("TENANT"), environment)
