"""What vLLM says against options becomes an error before anything starts."""

from __future__ import annotations

import pytest

from serving.engine.option_check import check_options
from serving.errors import ConfigError
from serving.settings.model import ModelSettings

MODELS = {
    name: ModelSettings.model_validate(
        {"weights": {"source": "demo"}, "engine": {"extra_args": {"seed": number}}}
    )
    for number, name in enumerate(("first", "second", "third"))
}


def test_the_first_refusal_is_raised() -> None:
    why = {"message": "argument --seed: no", "code": "engine_options", "hint": "another"}
    with pytest.raises(ConfigError, match="argument --seed: no") as caught:
        check_options(MODELS, lambda lists: {name: why for name in lists if name != "first"})
    assert caught.value.param == "models.second.engine.extra_args.seed"


def test_options_that_nothing_is_said_of_are_taken() -> None:
    asked: list[str] = []
    check_options(MODELS, lambda lists: asked.extend(lists) or {})
    assert asked == list(MODELS)
