"""One request and its answer, within its time: repeated where that helps."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import urllib3

from serving.adapters.kube.connection import Connection
from serving.adapters.kube.failures import Attempt, no_api, to_error, to_refusal
from serving.adapters.kube.no_answer import out_of_time, unreachable
from serving.adapters.kube.resources import version_path
from serving.adapters.kube.retrying import delay_s, is_safe, is_worth_repeating
from serving.errors import ClusterError, ConfigError

_METHODS = {
    "get": "GET", "list": "GET", "watch": "GET", "create": "POST", "update": "PUT",
    "patch": "PATCH", "delete": "DELETE",
}  # fmt: skip
_TRY_S = 10.0
"""An answer that takes longer has been lost; a list of ten thousand pods takes less."""
_CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class Body:
    """What a request carries, and how it is meant."""

    value: Any
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """A success: its document, and the time the server's clock read, if it said so."""

    document: dict[str, Any]
    server_time: datetime | None


@dataclass
class Pacing:
    """Time, waiting and chance, so that tests need none of them. Clock and sleep in seconds."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = field(default=random.random)


class Transport:
    """Requests to one cluster.

    Args:
        connection: where and as whom.
        timeout_s: for each call, all its tries together.
        pacing: see `Pacing`.
    """

    def __init__(
        self, connection: Connection, *, timeout_s: float = 30.0, pacing: Pacing | None = None
    ) -> None:
        self._connection = connection
        self.timeout_s = timeout_s
        self.pacing = pacing or Pacing()
        self.has_answered = False
        """Whether the cluster has ever been reached."""

    def call(
        self, attempt: Attempt, *, query: Mapping[str, str] | None = None, body: Body | None = None
    ) -> Answer:
        """The answer to a request.

        Raises:
            ClusterError, ConfigError: see `failures.py`; `TimedOut` after `timeout_s`.
        """
        ends_at = self.pacing.clock() + self.timeout_s
        num_failures = 0
        while True:
            left_s = ends_at - self.pacing.clock()
            if left_s <= 0:
                raise out_of_time(attempt, self.timeout_s)
            try:
                with self._sent(attempt, query, body, read_s=min(_TRY_S, left_s)) as response:
                    content, code = response.read(), response.status
                    headers = response.headers
            except urllib3.exceptions.HTTPError as error:
                num_failures += 1
                self._wait(self._no_answer(attempt, error), None, num_failures, ends_at)
                continue
            self.has_answered = True
            if code < 300:
                return Answer(_document(content, attempt), _date(headers.get("Date")))
            refusal = to_refusal(code, content, headers.get("Retry-After"))
            failure = to_error(refusal, attempt)
            if not is_worth_repeating(refusal, verb=attempt.verb):
                raise failure
            num_failures += 1
            self._wait(failure, refusal.retry_after_s, num_failures, ends_at)

    @contextmanager
    def stream(
        self, attempt: Attempt, *, query: Mapping[str, str], silence_s: float
    ) -> Iterator[Iterator[bytes]]:
        """The lines of an answer that goes on. It ends when the server says so.

        Raises:
            ClusterError: `kube_unreachable`, also for a connection that is silent for so long.
            ConfigError: it is refused.
        """
        try:
            with self._sent(attempt, query, None, read_s=silence_s) as response:
                if response.status >= 300:
                    retry_after = response.headers.get("Retry-After")
                    raise to_error(
                        to_refusal(response.status, response.read(), retry_after), attempt
                    )
                yield _lines(response.response)
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from error

    @contextmanager
    def _sent(
        self, attempt: Attempt, query: Mapping[str, str] | None, body: Body | None, *, read_s: float
    ) -> Iterator[Any]:
        from kubernetes.client.exceptions import ApiException

        api = self._connection.api
        headers = {"Accept": "application/json", "User-Agent": "galerne"}
        if body is not None:
            headers["Content-Type"] = body.content_type
        method, url, headers, value, _ = api.param_serialize(
            _METHODS[attempt.verb],
            _path(attempt),
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body.value if body is not None else None,
            auth_settings=["BearerToken"],
        )
        try:
            response = api.call_api(
                method, url, headers, value, _request_timeout=(min(_CONNECT_S, read_s), read_s)
            )
        except ApiException as error:
            # All that the official client makes of urllib3's errors; answers come as they are.
            raise urllib3.exceptions.SSLError(_tls_reason(str(error.reason))) from error
        try:
            yield response
        finally:
            # Of a stream that was left early nothing must remain in the connection.
            if response.data is None:
                response.response.close()
            response.response.release_conn()

    def _no_answer(self, attempt: Attempt, error: Exception) -> ClusterError:
        """The error to end with if no other try is answered.

        Raises:
            ClusterError: another try would be of no use, or might do a thing twice.
        """
        if isinstance(error, urllib3.exceptions.ReadTimeoutError):
            failure: ClusterError = out_of_time(attempt, self.timeout_s)
            is_worth_trying = is_safe(attempt.verb)
        else:
            failure = self._unreachable(error)
            # Where nothing has ever answered, more tries only hide a wrong address.
            is_worth_trying = self.has_answered and is_safe(attempt.verb)
        if not is_worth_trying:
            raise failure from error
        return failure

    def _unreachable(self, error: Exception) -> ClusterError:
        is_of_trust = isinstance(error, urllib3.exceptions.SSLError)
        reason = str(error) if is_of_trust else _reason(error)
        return unreachable(reason, self._connection.server, is_of_trust=is_of_trust)

    def _wait(
        self,
        failure: ClusterError | ConfigError,
        retry_after_s: float | None,
        num_failures: int,
        ends_at: float,
    ) -> None:
        pause_s = delay_s(num_failures, retry_after_s=retry_after_s, random=self.pacing.random())
        if self.pacing.clock() + pause_s >= ends_at:
            raise failure
        self.pacing.sleep(pause_s)


def _path(attempt: Attempt) -> str:
    if attempt.resource is None:
        return version_path(attempt.name)
    return attempt.resource.path(attempt.namespace, attempt.name, attempt.subresource)


def _document(content: bytes, attempt: Attempt) -> dict[str, Any]:
    """The object of an answer.

    Raises:
        ConfigError: `kube_no_api`, it is none.
    """
    try:
        document = json.loads(content or b"{}")
    except ValueError as error:
        raise no_api(content[:40].decode(errors="replace").split("\n")[0], attempt) from error
    if not isinstance(document, dict):
        raise no_api("a document that is no object", attempt)
    return document


def _lines(response: Any) -> Iterator[bytes]:
    rest = b""
    for piece in response.stream(amt=None, decode_content=False):
        *lines, rest = (rest + piece).split(b"\n")
        yield from filter(None, lines)


def _reason(error: BaseException) -> str:
    """What the connection says, without urllib3's objects."""
    if isinstance(error, urllib3.exceptions.ProxyError):
        return f"the proxy does not answer: {_reason(error.original_error)}"
    text = str(error).partition(": ")[2] or str(error)
    return text.partition("(Caused by")[0].strip() or type(error).__name__


def _tls_reason(reason: str) -> str:
    """What OpenSSL says, of the official client's `TYPE\\nTEXT`.

    >>> _tls_reason("SSLError\\n[SSL: CERTIFICATE_VERIFY_FAILED] unable to get issuer (_ssl.c:1)")
    '[SSL: CERTIFICATE_VERIFY_FAILED] unable to get issuer'
    """
    return reason.partition("\n")[2].partition(" (_ssl.c")[0] or reason


def _date(header: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(header) if header else None
    except ValueError:
        return None
