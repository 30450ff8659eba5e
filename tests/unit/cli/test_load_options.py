"""Options of `galerne load` that are refused before anything is sent."""

from __future__ import annotations

import pytest

from serving.cli.load_sending_options import Sending, make_plan
from serving.cli.load_workload_options import Asked
from serving.errors import ConfigError

URL = "http://127.0.0.1:1"
ASKED = Asked(model="m")


@pytest.mark.parametrize("address", ["host", ":1", "host:", "host:0", "host:65536", "host:x"])
def test_an_address_to_listen_on_has_a_host_and_a_port(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALERNE_LOAD_TOKEN", "abc")

    with pytest.raises(ConfigError, match="is not HOST:PORT"):
        make_plan(Sending(URL, listen=address), ASKED)


@pytest.mark.parametrize(
    ("token", "reason"), [("", "is not set"), ("hush\r\nx: y", "holds characters")]
)
def test_the_secret_of_the_workers_must_fit_into_a_header(
    token: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALERNE_LOAD_TOKEN", token)

    with pytest.raises(ConfigError, match=f"GALERNE_LOAD_TOKEN {reason}") as refused:
        make_plan(Sending(URL, listen="127.0.0.1:8089"), ASKED)

    assert "hush" not in str(refused.value)


def test_secrets_are_taken_without_the_white_space_around_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GALERNE_LOAD_TOKEN", "abc\n")

    plan = make_plan(Sending(URL, key="gal_abc\n", listen="[::1]:65535"), ASKED)

    assert plan.key == "gal_abc"
    assert plan.listen is not None
    assert (plan.listen.host, plan.listen.port, plan.listen.token) == ("::1", 65535, "abc")


def test_a_key_that_cannot_stand_in_a_header_is_refused_unseen() -> None:
    with pytest.raises(ConfigError, match="--key holds characters") as refused:
        make_plan(Sending(URL, key="hush\nhush"), ASKED)

    assert "hush" not in str(refused.value)
