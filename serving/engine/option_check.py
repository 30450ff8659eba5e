"""Asks vLLM about a model's options before anything is started.

Importing vLLM takes about 10 s and changes its process for good, so it happens in a process of its
own: `python -m serving.engine.option_check`.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from serving.engine.arguments import engine_arguments
from serving.errors import ConfigError
from serving.planner.placement import plan_placement
from serving.settings.model import ModelSettings

_OPTION = re.compile(r"--([a-z0-9-]+)")
_WEIGHTS = Path("weights")
_KV_EVENTS = "ipc:///events"
"""In the place of the model folder and a socket, at which the check does not look."""

Ask = Callable[[Mapping[str, Sequence[str]]], Mapping[str, Mapping[str, str]]]
"""Given lists of options by model, what is wrong with some of them."""


def ask_vllm(lists: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """What a process of its own finds wrong with each list of options, as a ConfigError's fields.

    One that fails itself finds nothing: the replicas will.
    """
    check = subprocess.run(  # noqa: S603 (our own module)
        [sys.executable, "-m", __name__],
        input=json.dumps(lists),  # options may be secrets, which a command line would show
        capture_output=True,
        text=True,
        check=False,
    )
    found: dict[str, dict[str, str]] = json.loads(check.stdout) if check.returncode == 0 else {}
    return found


def check_options(models: Mapping[str, ModelSettings], ask: Ask = ask_vllm) -> None:
    """Return if vLLM, as it is installed here, takes the options of these models.

    Raises:
        ConfigError: the first of `refusals`.
    """
    for error in refusals(models, ask):
        raise error


def refusals(models: Mapping[str, ModelSettings], ask: Ask = ask_vllm) -> list[ConfigError]:
    """What vLLM says against the options of these models: that it is unusable, or for each model
    the first option that it refuses, which `param` names where it can."""
    lists = {
        model_id: engine_arguments(
            model_id,
            model,
            weights=_WEIGHTS,
            placement=plan_placement(model.engine, resources=model.resources),
            kv_events=_KV_EVENTS,
        )
        for model_id, model in models.items()
    }
    return [
        ConfigError(**why, param=_setting_at_fault(model_id, models[model_id], why["message"]))
        for model_id, why in ask(lists).items()
    ]


def _setting_at_fault(model_id: str, model: ModelSettings, message: str) -> str | None:
    """The setting behind the option that vLLM speaks of."""
    named = {option.removeprefix("no-") for option in _OPTION.findall(message)}
    return next(
        (
            f"models.{model_id}.engine.extra_args.{name}"
            for name in model.engine.extra_args
            if name.replace("_", "-").removeprefix("no-") in named
        ),
        None,
    )


def _refusal(arguments: list[str]) -> dict[str, str] | None:
    """What vLLM says against the options, if anything."""
    from serving.engine.vllm_shim import import_vllm, parse_options  # which the starter needs not

    try:
        import_vllm()
        parse_options(arguments)
    except ConfigError as error:
        return {"message": error.message, "code": error.code, "hint": error.hint}
    return None


def _main() -> None:
    lists = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):  # vLLM logs to stdout
        refusals = {model_id: _refusal(arguments) for model_id, arguments in lists.items()}
    print(json.dumps({name: refusal for name, refusal in refusals.items() if refusal}))


if __name__ == "__main__":
    _main()
