"""One answer in the engine: the request that is scheduled, the words made up for it, its times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from serving.protocol.usage import TokenCounts
from serving.simulator.generation import Answer, AnswerSource, Prompt, Sampling, TokenStream
from serving.simulator.metrics import RequestTimes
from serving.simulator.request import Request


@dataclass(slots=True)
class Siblings:
    """The answers to one prompt."""

    num_open: int
    most_tokens: int = 0


class InFlight:
    """One answer in the engine. `stream` and `times` are set when it enters."""

    __slots__ = (
        "answer", "choice", "num_emitted", "request", "sampling", "siblings", "stream", "times"
    )  # fmt: skip

    def __init__(
        self,
        request: Request,
        answer: Answer,
        sampling: Sampling,
        *,
        choice: int,
        siblings: Siblings,
        num_emitted: int,
    ) -> None:
        self.num_emitted = num_emitted
        self.request = request
        self.answer = answer
        self.sampling = sampling
        self.choice = choice
        self.siblings = siblings
        self.stream: TokenStream
        self.times: RequestTimes


def answers_to(
    prompt: Prompt,
    sampling: Sampling,
    *,
    source: AnswerSource,
    request_numbers: Iterator[int],
    first_choice: int,
    num_emitted: int = 0,
) -> list[InFlight]:
    """The `n` answers to a prompt, none of them begun here.

    Args:
        request_numbers: never the same one twice.
        first_choice: index of the first answer in its HTTP request.
        num_emitted: tokens of each that another engine has generated.
    """
    stop_ids = sampling.stop_token_ids
    if not sampling.ignore_eos:
        stop_ids |= {source.vocabulary.stop_id}
    siblings = Siblings(sampling.n)
    answers = []
    for choice, rng in enumerate(source.rngs(prompt, sampling.n), first_choice):
        answer = Answer(source, rng, sampling, is_chat=prompt.is_chat)
        emitted = answer.repeat(num_emitted)
        request = Request(
            str(next(request_numbers)),
            [*prompt.token_ids, *emitted] if emitted else prompt.token_ids,
            max_tokens=sampling.max_tokens - num_emitted,
            stop_token_ids=stop_ids,
            lora_name=prompt.lora_name,
            cache_salt=prompt.cache_salt,
        )
        answers.append(
            InFlight(
                request,
                answer,
                sampling,
                choice=choice,
                siblings=siblings,
                num_emitted=num_emitted,
            )
        )
    return answers


def tokens_of(answers: Iterable[InFlight]) -> TokenCounts:
    """What some answers have taken of the engine so far. What another one generated is not its
    work; nor is the prompt, which was counted there."""
    prompt = cached = output = 0
    for running in answers:
        num_tokens = running.answer.num_tokens - running.num_emitted
        output += num_tokens
        is_first_to_prompt = running.choice % running.sampling.n == 0
        if num_tokens and is_first_to_prompt and not running.num_emitted:
            prompt += running.request.num_prompt_tokens
            cached += running.request.num_cached_tokens
    return TokenCounts(prompt, cached, output)
