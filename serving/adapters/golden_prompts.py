"""Prompts whose answers are known, put to an endpoint."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from serving.errors import ConfigError

_TIMEOUT_S = 120.0
_MAX_TOKENS = 64


@dataclass(frozen=True, slots=True)
class GoldenPrompt:
    """A prompt to a model, and what its answer contains, in whatever case."""

    model: str
    prompt: str
    contains: str
    api_key: str = field(default="", repr=False)


def read_golden_prompts(file: Path, *, api_key: str) -> tuple[GoldenPrompt, ...]:
    """The prompts of a YAML list of {model, prompt, contains}.

    Raises:
        ConfigError: `golden_invalid`.
    """
    try:
        rows = yaml.safe_load(file.read_text())
        return tuple(GoldenPrompt(**row, api_key=api_key) for row in rows)
    except (OSError, yaml.YAMLError, TypeError) as error:
        raise ConfigError(
            f"{file} has no golden prompts: {error}",
            code="golden_invalid",
            hint="a YAML list of {model: NAME, prompt: TEXT, contains: TEXT}",
        ) from error


def first_failure(endpoint: str, prompts: Sequence[GoldenPrompt]) -> str | None:
    """What the first answer that is not as it should be is like; nothing if all are."""
    for each in prompts:
        try:
            answer = _ask(endpoint, each)
        except urllib.error.HTTPError as error:
            with error:
                return f"golden prompt to {each.model}: HTTP {error.code}"
        except (OSError, ValueError, LookupError) as error:
            return f"golden prompt to {each.model}: {error}"
        if each.contains.lower() not in answer.lower():
            return f"golden prompt to {each.model}: the answer lacks {each.contains!r}"
    return None


def _ask(endpoint: str, golden: GoldenPrompt) -> str:
    body = {
        "model": golden.model,
        "messages": [{"role": "user", "content": golden.prompt}],
        "max_tokens": _MAX_TOKENS,
        "temperature": 0,
    }
    request = urllib.request.Request(  # noqa: S310 (the operator's own endpoint)
        f"{endpoint.rstrip('/')}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={
            "Authorization": f"Bearer {golden.api_key}",
            "Content-Type": "application/json",
        },
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
        return str(json.load(answer)["choices"][0]["message"]["content"])
