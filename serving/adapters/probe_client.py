"""Streams from an OpenAI-compatible endpoint, timed token by token."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp

from serving.errors import ConfigError

_TIMEOUT = aiohttp.ClientTimeout(total=300, connect=10)
_EVENT = b"data: "
_DONE = b"[DONE]"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the requests go. `url` is with or without `/v1`."""

    url: str
    model: str
    api_key: str | None = None

    def address(self, path: str) -> str:
        """The URL of a path below `/v1`.

        >>> Endpoint("http://host:8000/v1/", "m").address("/models")
        'http://host:8000/v1/models'
        """
        return f"{self.url.rstrip('/').removesuffix('/v1')}/v1{path}"


class ProbeClient:
    """Sends token ids and notes when the answer's tokens come."""

    def __init__(self, session: aiohttp.ClientSession, endpoint: Endpoint) -> None:
        self._session = session
        self._endpoint = endpoint

    async def max_model_len(self) -> int | None:
        """The longest sequence of the model, if the endpoint tells.

        Raises:
            ConfigError: `endpoint_unreachable`, `endpoint_refused`, `model_unknown`.
        """
        try:
            async with self._session.get(self._endpoint.address("/models")) as answer:
                await self._check(answer)
                models = (await answer.json(content_type=None))["data"]
                listed = {str(model["id"]): model for model in models}
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable() from error
        except (ValueError, KeyError, TypeError) as error:
            raise self._foreign("its list of models is not OpenAI's") from error
        if self._endpoint.model not in listed:
            raise _unknown_model(self._endpoint.model, served=sorted(listed))
        longest = listed[self._endpoint.model].get("max_model_len")
        return longest if isinstance(longest, int) else None

    async def stream(self, prompt: Sequence[int], num_tokens: int) -> list[float]:
        """Seconds of a monotonic clock: [1 + num_tokens], when the request was sent and when each
        token came. Tokens of one chunk came together.

        Raises:
            ConfigError: as `max_model_len`, and `endpoint_does_not_stream`.
        """
        body = {
            "model": self._endpoint.model, "prompt": list(prompt), "max_tokens": num_tokens,
            "ignore_eos": True, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }  # fmt: skip
        times = [time.monotonic()]
        address = self._endpoint.address("/completions")
        try:
            async with self._session.post(address, json=body) as answer:
                await self._check(answer)
                async for at, event in self._events(answer):
                    num_new = _num_generated(event) - (len(times) - 1)
                    times += [at] * num_new
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable() from error
        if len(times) != 1 + num_tokens:
            raise self._foreign(f"it has sent {len(times) - 1} tokens instead of {num_tokens}")
        return times

    async def _events(
        self, answer: aiohttp.ClientResponse
    ) -> AsyncIterator[tuple[float, dict[str, Any]]]:
        if answer.content_type != "text/event-stream":
            raise self._foreign("it answers in one piece")
        async for line in answer.content:
            at = time.monotonic()
            if not line.startswith(_EVENT) or line[len(_EVENT) :].strip() == _DONE:
                continue
            try:
                event = json.loads(line[len(_EVENT) :])
            except ValueError as error:
                raise self._foreign("an event holds no JSON") from error
            if not isinstance(event, dict) or "error" in event:
                raise self._foreign("a stream has ended in an error")
            yield at, event

    async def _check(self, answer: aiohttp.ClientResponse) -> None:
        if answer.status == HTTPStatus.OK:
            return
        if answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise ConfigError(
                "the endpoint does not accept the API key" if self._endpoint.api_key
                else "the endpoint asks for an API key",
                code="endpoint_refused", param="api-key-env",
                hint="name the environment variable that holds the key with --api-key-env",
            )  # fmt: skip
        if answer.status == HTTPStatus.NOT_FOUND:
            raise _unknown_model(self._endpoint.model)
        raise self._foreign(f"it answers with status {answer.status}")

    def _unreachable(self) -> ConfigError:
        return ConfigError(
            f"{self._endpoint.url} does not answer, or has broken off",
            code="endpoint_unreachable",
            param="endpoint",
            hint="give the URL of a running engine, for example http://127.0.0.1:8000",
        )

    def _foreign(self, problem: str) -> ConfigError:
        return ConfigError(
            f"{self._endpoint.url} does not stream as vLLM does: {problem}",
            code="endpoint_does_not_stream",
            param="endpoint",
            hint="calibrate against vLLM's /v1/completions, with nothing in between that buffers",
        )


@asynccontextmanager
async def connected(endpoint: Endpoint) -> AsyncIterator[ProbeClient]:
    """A client whose connections are closed on exit."""
    headers = {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        timeout=_TIMEOUT, connector=connector, headers=headers
    ) as session:
        yield ProbeClient(session, endpoint)


def _num_generated(event: dict[str, Any]) -> int:
    """Tokens generated up to this event, which vLLM tells in each if asked to; 0 if it does not."""
    usage = event.get("usage") or {}
    return int(usage.get("completion_tokens") or 0)


def _unknown_model(model: str, *, served: Sequence[str] = ()) -> ConfigError:
    hint = f"--model is one of: {', '.join(served)}" if served else "see GET /v1/models"
    return ConfigError(
        f"the endpoint has no model {model!r}", code="model_unknown", param="model", hint=hint
    )
