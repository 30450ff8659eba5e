"""What each endpoint does with a checked body: make prompts of it, start generating, shape the
answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from serving.rendering.bodies import DetokenizeBody, GenerationBody, TokenizeBody
from serving.rendering.conversations import (
    chat_of,
    chat_of_messages,
    chat_of_responses,
    chat_of_tokenize,
)
from serving.rendering.messages_body import CountTokensBody, MessagesBody
from serving.rendering.openai_bodies import ChatBody, CompletionBody
from serving.rendering.refusal import RequestRefused, invalid
from serving.rendering.responses_body import ResponsesBody
from serving.rendering.tokenizer import Tokenizer
from serving.simulator.engine import EngineLoop
from serving.simulator.generation import Prompt, TokenStream
from serving.simulator.limits import (
    OutputLimit,
    check_output,
    sampling_of,
)
from serving.simulator.messages_reply import MessagesReply
from serving.simulator.openai_reply import ChatShapes, ChunkOptions, CompletionShapes, OpenAIReply
from serving.simulator.prompts import Prompts
from serving.simulator.reply import Envelope, Reply, messages_failure, openai_failure
from serving.simulator.responses_reply import ResponsesReply
from serving.simulator.served_model import ServedModel


@dataclass(frozen=True, slots=True)
class Generation:
    """A request that was understood and only waits to be started.

    vLLM checks prompts in the engine, when a streamed answer has begun already; so what `start`
    refuses ends up inside the stream, as it does there.
    """

    start: Callable[[int], tuple[TokenStream, Reply]]
    """Takes the number of tokens that another engine has generated."""
    is_streamed: bool
    failure: Callable[[RequestRefused], bytes]
    """Events for an error once the answer has begun."""


class Service:
    """The endpoints of one engine."""

    def __init__(self, model: ServedModel, tokenizer: Tokenizer, engine: EngineLoop) -> None:
        self.model = model
        self.engine = engine
        self._tokenizer = tokenizer
        self._prompts = Prompts(model, tokenizer)
        self._fingerprint = f"vllm-{model.version}-simulated"

    def chat(self, body: ChatBody, request_id: str | None) -> Generation:
        """`/v1/chat/completions`.

        Raises:
            RequestRefused: as vLLM would.
        """
        self.model.check_name(body.model)
        self.model.check_tool_choice(body.tool_choice)
        _refuse_logprobs(bool(body.logprobs))
        limit = _chat_limit(body)
        prompt = self._prompts.of_chat(chat_of(body), limit, body.model, body.cache_salt)
        name = f"chatcmpl-{request_id or body.request_id or uuid4().hex}"
        options = ChunkOptions.of(body.stream_options, token_ids=bool(body.return_token_ids))
        return self._openai(ChatShapes(), name, body, [prompt], limit, options)

    def completion(self, body: CompletionBody, request_id: str | None) -> Generation:
        """`/v1/completions`.

        Raises:
            RequestRefused: as vLLM would.
        """
        self.model.check_name(body.model)
        _refuse_logprobs(body.logprobs is not None)
        if body.suffix is not None:
            raise RequestRefused(
                "suffix is only supported for models with FIM completion rendering", param="suffix"
            )
        # `max_tokens` 0 with `echo` asks for the prompt alone; vLLM generates one token for it.
        limit = OutputLimit("max_tokens", body.max_tokens)
        check_output(limit, max_model_len=self.model.max_model_len)
        prompts = self._prompts.of_completion(body)
        name = f"cmpl-{request_id or body.request_id or uuid4().hex}"
        echo = self._prompts.echo(body, prompts) if body.echo else ()
        options = ChunkOptions.of(
            body.stream_options, token_ids=bool(body.return_token_ids), echo=echo
        )
        return self._openai(CompletionShapes(), name, body, prompts, limit, options)

    def responses(self, body: ResponsesBody, request_id: str | None) -> Generation:
        """`/v1/responses`; nothing is stored.

        Raises:
            RequestRefused: as vLLM would.
        """
        del request_id  # vLLM names responses itself
        self.model.check_name(body.model)
        if body.previous_response_id is not None:
            raise RequestRefused(
                f"Response with id '{body.previous_response_id}' not found.",
                param="response_id",
                status=404,
                error_type="invalid_request_error",
            )
        if body.background:
            raise RequestRefused(
                "This vLLM engine does not support `store=True` and therefore does not support the "
                "background mode. To enable these features, set the environment variable "
                "`VLLM_ENABLE_RESPONSES_API_STORE=1` when launching the vLLM server.",
                param="background",
                error_type="invalid_request_error",
            )
        limit = OutputLimit("max_output_tokens", body.max_output_tokens)
        prompt = self._prompts.of_chat(chat_of_responses(body), limit, body.model, body.cache_salt)
        if len(prompt.token_ids) >= self.model.max_model_len:
            raise RequestRefused(
                f"The engine prompt length {len(prompt.token_ids)} exceeds the max_model_len "
                f"{self.model.max_model_len}. Please reduce prompt.",
                param="input",
                error_type="invalid_request_error",
            )
        name = body.request_id or f"resp_{uuid4().hex}"
        max_tokens = self._room(limit, [prompt])
        sampling = sampling_of(body, max_tokens=max_tokens)
        envelope = self._envelope(name, body.model)

        def start(num_emitted: int) -> tuple[TokenStream, Reply]:
            stream = self.engine.generate([prompt], sampling, num_emitted=num_emitted)
            return stream, ResponsesReply(envelope, stream, body, max_tokens=max_tokens)

        return Generation(start, bool(body.stream), openai_failure)

    def messages(self, body: MessagesBody, request_id: str | None) -> Generation:
        """`/v1/messages`.

        Raises:
            RequestRefused: as vLLM would.
        """
        self.model.check_name(body.model)
        limit = OutputLimit("max_completion_tokens", body.max_tokens)
        prompt = self._prompts.of_chat(chat_of_messages(body), limit, body.model, body.cache_salt)
        sampled = GenerationBody(
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=body.top_k,
            stop=body.stop_sequences,
        )
        sampling = sampling_of(sampled, max_tokens=self._room(limit, [prompt]))
        name = f"chatcmpl-{request_id or uuid4().hex}"
        envelope = self._envelope(name, body.model)

        def start(num_emitted: int) -> tuple[TokenStream, Reply]:
            stream = self.engine.generate([prompt], sampling, num_emitted=num_emitted)
            return stream, MessagesReply(envelope, stream)

        return Generation(start, bool(body.stream), messages_failure)

    def count_tokens(self, body: CountTokensBody) -> Mapping[str, Any]:
        """`/v1/messages/count_tokens`.

        Raises:
            RequestRefused: as vLLM would.
        """
        self.model.check_name(body.model)
        limit = OutputLimit("max_tokens", None)
        prompt = self._prompts.of_chat(chat_of_messages(body), limit, body.model, None)
        return {"input_tokens": len(prompt.token_ids)}

    def tokenize(self, body: TokenizeBody) -> Mapping[str, Any]:
        """`/tokenize`.

        Raises:
            RequestRefused: as vLLM would.
        """
        self.model.check_name(body.model)
        if body.prompt is None:
            token_ids = self._tokenizer.render(chat_of_tokenize(body))
        else:
            special = body.add_special_tokens is not False
            token_ids = self._tokenizer.encode(body.prompt, add_special_tokens=special)
        strings = self._tokenizer.token_strings(token_ids) if body.return_token_strs else None
        return {
            "count": len(token_ids),
            "max_model_len": self.model.max_model_len,
            "tokens": token_ids,
            "token_strs": strings,
        }

    def detokenize(self, body: DetokenizeBody) -> Mapping[str, Any]:
        """`/detokenize`.

        Raises:
            RequestRefused: as vLLM would.
        """
        self.model.check_name(body.model)
        outside = next((i for i in body.tokens if i >= self._tokenizer.vocab_size), None)
        if outside is not None:
            raise RequestRefused(f"Token id {outside} is out of vocabulary")
        return {"prompt": self._tokenizer.decode(body.tokens)}

    def _openai(
        self,
        shapes: ChatShapes | CompletionShapes,
        name: str,
        body: ChatBody | CompletionBody,
        prompts: Sequence[Prompt],
        limit: OutputLimit,
        options: ChunkOptions,
    ) -> Generation:
        max_tokens = self._room(limit, prompts)
        if body.echo and limit.max_tokens == 0:
            max_tokens = 1
        sampling = sampling_of(
            body,
            max_tokens=max_tokens,
            n=1 if body.n is None else body.n,
            min_tokens=body.min_tokens,
        )
        envelope = self._envelope(name, body.model)

        def start(num_emitted: int) -> tuple[TokenStream, Reply]:
            stream = self.engine.generate(prompts, sampling, num_emitted=num_emitted)
            return stream, OpenAIReply(shapes, envelope, stream, options)

        return Generation(start, bool(body.stream), openai_failure)

    def _room(self, limit: OutputLimit, prompts: Sequence[Prompt]) -> int:
        """The tokens an answer may have; the scheduler ends those of longer prompts earlier."""
        room = self.model.max_model_len - min((len(p.token_ids) for p in prompts), default=0)
        return room if limit.max_tokens is None else min(room, limit.max_tokens)

    def _envelope(self, name: str, model: str | None) -> Envelope:
        served = self.model.served_name(model)
        return Envelope(name, served, int(time.time()), self._fingerprint)


def _refuse_logprobs(asked: bool) -> None:
    if asked:
        raise invalid("a simulated engine has no log probabilities", "logprobs")


def _chat_limit(body: ChatBody) -> OutputLimit:
    if body.max_completion_tokens is not None:
        return OutputLimit("max_completion_tokens", body.max_completion_tokens)
    return OutputLimit("max_tokens", body.max_tokens)
