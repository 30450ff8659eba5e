"""Errors keep what they say on their way between processes."""

from __future__ import annotations

import pickle

import pytest

from serving.errors import ConfigError, EngineError, ServingError


@pytest.mark.parametrize(
    "error",
    [
        EngineError("it hangs", code="engine_hung", retryable=True, retry_after_s=2.5),
        ConfigError("too small", code="kv_cache_too_small", param="kv_blocks", hint="raise it"),
    ],
)
def test_an_error_survives_pickling(error: ServingError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
