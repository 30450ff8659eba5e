"""From a checked body to prompts of token ids, refused where vLLM refuses them."""

from __future__ import annotations

from collections.abc import Sequence

from serving.rendering.openai_bodies import CompletionBody
from serving.rendering.tokenizer import Chat, Tokenizer, flat_text
from serving.simulator.generation import Prompt
from serving.simulator.limits import OutputLimit, check_output, check_prompt, check_text
from serving.simulator.served_model import ServedModel


class Prompts:
    """Makes the prompts of one model."""

    def __init__(self, model: ServedModel, tokenizer: Tokenizer) -> None:
        self._model = model
        self._tokenizer = tokenizer

    def of_chat(
        self, chat: Chat, limit: OutputLimit, model: str | None, cache_salt: str | None
    ) -> Prompt:
        """The prompt of a conversation.

        Raises:
            RequestRefused: it cannot be rendered, or is too long, or so is the answer.
        """
        check_output(limit, max_model_len=self._model.max_model_len)
        # Before the event loop is kept busy; vLLM counts what its template adds, too.
        self._check_text(sum(len(flat_text(m.get("content"))) for m in chat.messages))
        token_ids = self._tokenizer.render(chat)
        return self._prompt(token_ids, model, cache_salt, is_chat=True)

    def of_completion(self, body: CompletionBody) -> list[Prompt]:
        """The prompts of `/v1/completions`.

        Raises:
            RequestRefused: one of them is too long.
        """
        return [self._of_text(given, body) for given in _prompts_of(body)]

    def echo(self, body: CompletionBody, prompts: Sequence[Prompt]) -> list[str]:
        """The text of each prompt."""
        return [
            given if isinstance(given, str) else self._tokenizer.decode(prompt.token_ids)
            for given, prompt in zip(_prompts_of(body), prompts, strict=True)
        ]

    def _of_text(self, prompt: str | list[int], body: CompletionBody) -> Prompt:
        if isinstance(prompt, str):
            self._check_text(len(prompt))
            special = body.add_special_tokens
            prompt = self._tokenizer.encode(prompt, add_special_tokens=special)
            # vLLM's tokenizer stops here, and the error tells of no more.
            prompt = prompt[: self._model.max_model_len + 1]
        return self._prompt(prompt, body.model, body.cache_salt, is_chat=False)

    def _check_text(self, num_chars: int) -> None:
        check_text(
            num_chars,
            max_model_len=self._model.max_model_len,
            max_chars_per_token=self._tokenizer.max_chars_per_token,
        )

    def _prompt(
        self, token_ids: list[int], model: str | None, cache_salt: str | None, *, is_chat: bool
    ) -> Prompt:
        if is_chat:
            token_ids = token_ids[: self._model.max_model_len + 1]
        check_prompt(token_ids, max_model_len=self._model.max_model_len)
        return Prompt(token_ids, is_chat, self._model.lora_name(model), cache_salt)


def _prompts_of(body: CompletionBody) -> list[str | list[int]]:
    """The prompts one by one, whether the client sent one or several, as texts or ids."""
    prompt = body.prompt
    if isinstance(prompt, str):
        return [prompt]
    if prompt and isinstance(prompt[0], int):
        return [[token_id for token_id in prompt if isinstance(token_id, int)]]
    return [item for item in prompt or [] if not isinstance(item, int)]
