"""Asked of an endpoint before a load test begins, so that mistakes show at once and by name."""

from __future__ import annotations

import ssl
from collections.abc import Collection

import aiohttp
import msgspec

from loadtest.generator.anthropic_messages import MESSAGES
from loadtest.generator.openai_chat import CHAT
from loadtest.generator.target import Target
from loadtest.generator.wire import UnreadableError, Wire, reader
from serving.errors import ConfigError

_TIMEOUT_S = 20.0
_MAX_ADDRESS_CHARS = 200
_MAX_LIST_BYTES = 8 * 1024 * 1024
"""Tens of thousands of models; an endless answer would fill the memory within the time there is."""


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


_read_models = reader(_Models)


async def only_model(target: Target, key: str | None, dialect: str) -> str:
    """The model that an endpoint serves, if it serves just one.

    Args:
        dialect: what it is to be asked in.

    Raises:
        ConfigError: the endpoint cannot be reached or refuses the key, or it serves several.
    """
    async with _session(target) as session:
        served = await _served(session, target, key, _wire((dialect,)))
    if len(served) != 1:
        raise ConfigError(
            f"{target.url} serves {', '.join(sorted(served)) or 'no model'}",
            code="model_ambiguous",
            param="--model",
            hint="name one of them",
        )
    return next(iter(served))


async def check(
    target: Target, asked: Collection[tuple[str, str | None]], dialects: Collection[str]
) -> None:
    """Nothing stands in the way of requests for these models.

    Args:
        asked: every model with the API key that it is asked with, `None` for none.
        dialects: what they are asked in.

    Raises:
        ConfigError: the endpoint cannot be reached, refuses the key or does not serve the model.
    """
    async with _session(target) as session:
        for key in {key for _, key in asked}:
            served = await _served(session, target, key, _wire(dialects))
            for model, its_key in asked:
                if its_key == key and model not in served:
                    raise ConfigError(
                        f"{target.url} does not serve {model!r}",
                        code="model_not_found",
                        param="--model",
                        hint=f"it serves {', '.join(sorted(served)) or 'nothing'}",
                    )


def _session(target: Target) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    connector = aiohttp.TCPConnector(ssl=target.tls or True)
    return aiohttp.ClientSession(timeout=timeout, connector=connector)


def _wire(dialects: Collection[str]) -> Wire:
    """The API to ask for models in: an endpoint of `messages` may be one of Anthropic's alone, and
    others do not mind what that adds."""
    return MESSAGES if "messages" in dialects else CHAT


async def _served(
    session: aiohttp.ClientSession, target: Target, key: str | None, wire: Wire
) -> frozenset[str]:
    url = f"{target.url}{wire.models}"
    try:
        async with session.get(url, headers=wire.identity(key), allow_redirects=False) as answer:
            if answer.status in (401, 403):
                raise ConfigError(
                    f"{target.url} refuses the API key (status {answer.status})",
                    code="key_refused",
                    param="--key",
                    hint="make one with `galerne keys create --name load`",
                )
            if 300 <= answer.status < 400:
                # The load test itself would not follow it.
                address = answer.headers.get("location", "")[:_MAX_ADDRESS_CHARS]
                raise _unreachable(target, f"status {answer.status}, it is at {address!r} now")
            answer.raise_for_status()
            return frozenset(model.id for model in _read_models(await _whole(answer, target)).data)
    except ssl.SSLError as error:
        raise _unreachable(target, "its certificate is not trusted; see --ca-file") from error
    except TimeoutError as error:
        raise _unreachable(target, f"no answer within {_TIMEOUT_S:.0f} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise _unreachable(target, _cause(error)) from error
    except UnreadableError as error:
        raise _unreachable(target, "/v1/models does not answer with a list of models") from error


async def _whole(answer: aiohttp.ClientResponse, target: Target) -> bytes:
    """The body of an answer.

    Raises:
        ConfigError: it is longer than any list of models.
    """
    body = bytearray()
    async for part in answer.content.iter_any():
        body += part
        if len(body) > _MAX_LIST_BYTES:
            size = f"{_MAX_LIST_BYTES // 2**20} MiB"
            raise _unreachable(target, f"/v1/models answers with more than {size}")
    return bytes(body)


def _cause(error: Exception) -> str:
    system = getattr(error, "os_error", error)
    return getattr(system, "strerror", None) or str(system) or type(error).__name__


def _unreachable(target: Target, reason: str) -> ConfigError:
    return ConfigError(
        f"cannot load {target.url}: {reason}",
        code="target_unreachable",
        param="--url",
        hint="`curl URL/v1/models` must work from here",
    )
