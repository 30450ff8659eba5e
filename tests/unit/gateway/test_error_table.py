"""Every error has a status and a type; nothing an engine says gets out of hand."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from serving.errors import (
    AccessError,
    ConfigError,
    EngineError,
    Overloaded,
    QuotaExceeded,
    RequestError,
    ServingError,
)
from serving.gateway.error_table import body_of, from_engine, headers_of, status_of

# Machines under load stall at random; that is no property of the code under test.
patient = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize(
    ("error", "status", "error_type"),
    [
        (RequestError("m", code="x"), 400, "invalid_request_error"),
        (AccessError("m", code="x"), 401, "authentication_error"),
        (QuotaExceeded("m", code="x"), 429, "rate_limit_error"),
        (Overloaded("m", code="x"), 503, "overloaded_error"),
        (EngineError("m", code="x"), 502, "api_error"),
        (ConfigError("m", code="x"), 500, "api_error"),
        (ServingError("m", code="x"), 500, "api_error"),
        (RequestError("m", code="model_not_found"), 404, "not_found_error"),
        (RequestError("m", code="unknown_path"), 404, "not_found_error"),
        (RequestError("m", code="unsupported_by_model"), 404, "not_found_error"),
        (RequestError("m", code="method_not_allowed"), 405, "invalid_request_error"),
        (RequestError("m", code="upload_timeout"), 408, "timeout_error"),
        (RequestError("m", code="body_too_large"), 413, "request_too_large"),
        (RequestError("m", code="unsupported_media_type"), 415, "invalid_request_error"),
        (RequestError("m", code="unsupported_content_encoding"), 415, "invalid_request_error"),
        (RequestError("m", code="headers_too_large"), 431, "invalid_request_error"),
        (EngineError("m", code="engine_timeout"), 504, "timeout_error"),
        (EngineError("m", code="engine_failed"), 502, "api_error"),
    ],
    ids=lambda value: (
        f"{type(value).__name__}-{value.code}" if isinstance(value, Exception) else ""
    ),
)
def test_every_error_has_its_status_and_type(
    error: ServingError, status: int, error_type: str
) -> None:
    assert status_of(error) == status
    assert body_of(error)["error"] == {
        "message": "m", "type": error_type, "param": None, "code": error.code
    }  # fmt: skip


def test_anthropics_dialect_has_an_envelope() -> None:
    error = RequestError("m", code="x", param="p")
    assert body_of(error, anthropic=True) == {"type": "error", **body_of(error)}


@pytest.mark.parametrize(
    ("retry_after_s", "header"), [(0.0, b"1"), (0.2, b"1"), (1.0, b"1"), (1.1, b"2"), (30, b"30")]
)
def test_retry_after_is_in_whole_seconds_rounded_up(retry_after_s: float, header: bytes) -> None:
    error = Overloaded("m", code="x", retry_after_s=retry_after_s)
    assert headers_of(error) == [(b"retry-after", header)]


def test_only_access_errors_say_how_to_authenticate() -> None:
    assert headers_of(AccessError("m", code="x")) == [(b"www-authenticate", b"Bearer")]
    assert headers_of(EngineError("m", code="x")) == []


@patient
@given(status=st.integers(400, 599), body=st.binary(max_size=200))
@example(status=400, body=b"[" * 60_000)
@example(status=400, body=b'{"error": {"message": "\\ud800", "param": "\\ud800"}}')
def test_no_bytes_of_an_engine_raise(status: int, body: bytes) -> None:
    check_answer(from_engine(status, body), status)


scalars = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5)
json_values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.just("a"), scalars)


@patient
@given(status=st.integers(400, 599), message=json_values, param=json_values, detail=json_values)
def test_no_shape_of_an_engines_error_raises(
    status: int, message: object, param: object, detail: object
) -> None:
    parts = {"error": {"message": message, "param": param}, "detail": detail}
    for content in (parts, {"error": message}, {"detail": detail}, message):
        check_answer(from_engine(status, json.dumps(content).encode()), status)


def check_answer(error: ServingError, status: int) -> None:
    body = body_of(error)["error"]
    json.dumps(body).encode()
    assert isinstance(body["message"], str)
    assert body["param"] is None or isinstance(body["param"], str)
    assert isinstance(body["code"], str)
    if status >= 500 and status != 501:
        assert error.retryable
        assert status_of(error) in {429, 502, 503}
    else:
        assert not error.retryable
        assert 400 <= status_of(error) < 500


@patient
@given(
    status=st.integers(500, 599).filter(lambda status: status != 501), secret=st.text(min_size=8)
)
def test_nothing_of_an_engines_failure_gets_out(status: int, secret: str) -> None:
    plain = from_engine(status, b"")
    for content in ({"error": {"message": secret, "param": secret}}, {"detail": secret}):
        told = from_engine(status, json.dumps(content).encode())
        assert body_of(told) == body_of(plain)


@pytest.mark.parametrize("status", [404, 405, 501])
def test_an_api_that_the_model_lacks_is_not_an_unknown_model(status: int) -> None:
    error = from_engine(status, b'{"detail": "Not Found"}')
    assert (error.code, status_of(error)) == ("unsupported_by_model", 404)
    assert error.message == "The model does not support this API"


def test_a_response_that_is_not_stored_has_its_own_code() -> None:
    told = {"message": "Response with id 'resp_1' not found.", "param": "response_id"}
    error = from_engine(404, json.dumps({"error": told}).encode())

    assert (error.code, status_of(error)) == ("previous_response_not_found", 404)
    assert error.param == "previous_response_id"
    assert "not stored" in error.message


@pytest.mark.parametrize(
    "told",
    [
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
        'tool_choice="required" requires --tool-call-parser to be set',
    ],
)
def test_a_missing_tool_parser_is_told_by_our_setting(told: str) -> None:
    error = from_engine(400, json.dumps({"error": {"message": told, "param": None}}).encode())

    assert (error.code, status_of(error)) == ("tool_parser_missing", 400)
    assert "engine.tool_call_parser" in error.message
    assert "--" not in error.message


@pytest.mark.parametrize("param", ["input_tokens", "input_text", "max_tokens"])
def test_a_prompt_that_does_not_fit_has_its_own_code(param: str) -> None:
    message = "This model's maximum context length is 16 tokens."
    body = json.dumps({"error": {"message": message, "param": param}}).encode()

    error = from_engine(400, body)

    assert (error.code, error.param) == ("context_length_exceeded", param)
    assert error.message == message
