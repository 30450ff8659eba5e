"""What vLLM refuses once it has read a request: lengths, and sampling parameters out of range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from serving.rendering.bodies import GenerationBody
from serving.rendering.refusal import RequestRefused, invalid
from serving.simulator.generation import Sampling

MAX_CHOICES = 16_384
_GREEDY_BELOW = 1e-5


@dataclass(frozen=True, slots=True)
class OutputLimit:
    """How many tokens a client asked for, and by which field."""

    param: str
    max_tokens: int | None
    """`None` leaves it to the model's longest sequence."""


def check_output(limit: OutputLimit, *, max_model_len: int) -> None:
    """Refuse an answer longer than the model.

    Source: `TokenizeParams.__post_init__` in vllm/renderers/params.py, vLLM 0.32.

    Raises:
        RequestRefused: so many tokens were asked for.
    """
    if limit.max_tokens is not None and limit.max_tokens > max_model_len:
        raise invalid(
            f"{limit.param}={limit.max_tokens} cannot be greater than "
            f"max_model_len={max_model_len}. Please request fewer output tokens.",
            limit.param,
            limit.max_tokens,
        )


def check_text(num_chars: int, *, max_model_len: int, max_chars_per_token: int) -> None:
    """Refuse a text that is too long however it is tokenized.

    Source: `TokenizeParams._text_len_check`, as above.

    Raises:
        RequestRefused: it is.
    """
    max_chars = max_model_len * max_chars_per_token
    if num_chars > max_chars:
        raise invalid(
            f"This model's maximum context length is {max_model_len} tokens. However, your prompt "
            f"contains {num_chars} characters (more than {max_chars} characters, which is the "
            f"upper bound for {max_model_len} input tokens). Please reduce the length of the input "
            "prompt.",
            "input_text",
            num_chars,
        )


def check_prompt(token_ids: Sequence[int], *, max_model_len: int) -> None:
    """Refuse a prompt longer than the model.

    vLLM's tokenizer stops one token beyond the limit, so it tells of "at least" that many; prompts
    sent as ids are counted whole.

    Source: `TokenizeParams._token_len_check`, as above.

    Raises:
        RequestRefused: it is longer.
    """
    num_tokens = len(token_ids)
    if num_tokens > max_model_len:
        qualifier = "at least " if num_tokens == max_model_len + 1 else ""
        raise invalid(
            f"This model's maximum context length is {max_model_len} tokens. However, your prompt "
            f"contains {qualifier}{num_tokens} input tokens, which exceeds this limit even without "
            "any output tokens. Please reduce the length of the input prompt.",
            "input_tokens",
            num_tokens,
        )


def check_decoder_prompt(token_ids: Sequence[int], *, max_model_len: int, vocab_size: int) -> None:
    """Refuse a prompt that leaves no room for an answer or that the model cannot know.

    Source: `_validate_prompt_len` in vllm/v1/engine/input_processor.py, vLLM 0.32.

    Raises:
        RequestRefused: it is one.
    """
    num_tokens = len(token_ids)
    if not num_tokens:
        raise RequestRefused("The decoder prompt cannot be empty")
    if num_tokens >= max_model_len:
        raise RequestRefused(
            f"The decoder prompt (length {num_tokens}) plus the number of requested output "
            f"tokens (at least 1) is longer than the maximum model length of {max_model_len}. Make "
            "sure that `max_model_len` is no smaller than the number of text tokens (prompt + "
            "requested output tokens)."
        )
    for token_id in (max(token_ids), min(token_ids)):
        if not 0 <= token_id < vocab_size:
            raise RequestRefused(f"Token id {token_id} is out of vocabulary")


def sampling_of(
    body: GenerationBody, *, max_tokens: int, n: int = 1, min_tokens: int = 0
) -> Sampling:
    """The sampling parameters of a request.

    Args:
        max_tokens: already cut to what the model has room for.

    Source: `SamplingParams` in vllm/sampling_params.py, vLLM 0.32.

    Raises:
        RequestRefused: one of them is out of range.
    """
    _check_choices(n)
    _check_shape(body)
    _check_tokens(max_tokens, min_tokens)
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    if not all(stop):
        raise RequestRefused("stop cannot contain an empty string.")
    if n > 1 and body.temperature is not None and body.temperature < _GREEDY_BELOW:
        raise RequestRefused(f"n must be 1 when using greedy sampling, got {n}.")
    return Sampling(
        max_tokens=max_tokens,
        n=n,
        min_tokens=min_tokens,
        ignore_eos=body.ignore_eos,
        stop=stop,
        stop_token_ids=frozenset(body.stop_token_ids or ()),
        include_stop_str_in_output=body.include_stop_str_in_output,
    )


def _check_choices(n: int) -> None:
    if n < 1:
        raise RequestRefused(f"n must be at least 1, got {n}.")
    if n > MAX_CHOICES:
        raise RequestRefused(
            f"n must be at most {MAX_CHOICES}, got {n}. To increase this limit, set the "
            "VLLM_MAX_N_SEQUENCES environment variable."
        )


def _check_shape(body: GenerationBody) -> None:
    for name in ("presence_penalty", "frequency_penalty"):
        value = getattr(body, name) or 0.0
        if not -2.0 <= value <= 2.0:
            raise RequestRefused(f"{name} must be in [-2, 2], got {value}.")
    repetition = 1.0 if body.repetition_penalty is None else body.repetition_penalty
    if not math.isfinite(repetition):
        raise RequestRefused(f"repetition_penalty must be a finite number, got {repetition}.")
    if repetition <= 0.0:
        raise RequestRefused(f"repetition_penalty must be greater than zero, got {repetition}.")
    _check_temperature(1.0 if body.temperature is None else body.temperature)
    top_p = 1.0 if body.top_p is None else body.top_p
    if not 0.0 < top_p <= 1.0:
        raise invalid(f"top_p must be in (0, 1], got {top_p}.", "top_p", top_p)
    if (body.top_k or 0) < -1:
        raise RequestRefused(f"top_k must be 0 (disable), or at least 1, got {body.top_k}.")
    if not 0.0 <= (body.min_p or 0.0) <= 1.0:
        raise RequestRefused(f"min_p must be in [0, 1], got {body.min_p}.")


def _check_temperature(value: float) -> None:
    problem = None
    if not math.isfinite(value):
        problem = "be a finite number"
    elif value < 0.0:
        problem = "be non-negative"
    elif value > 2.0:
        problem = "be in [0, 2]"
    if problem is not None:
        raise invalid(f"temperature must {problem}, got {value}.", "temperature", value)


def _check_tokens(max_tokens: int, min_tokens: int) -> None:
    if max_tokens < 1:
        raise invalid(f"max_tokens must be at least 1, got {max_tokens}.", "max_tokens", max_tokens)
    if min_tokens < 0:
        raise RequestRefused(f"min_tokens must be greater than or equal to 0, got {min_tokens}.")
    if min_tokens > max_tokens:
        raise RequestRefused(
            f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {min_tokens}."
        )
