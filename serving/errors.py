"""The error tree. Every failure that may reach a person is one of these.

    ServingError
    ├── RequestError      the caller's request is at fault; repeating it unchanged is useless
    ├── AccessError       no key, a bad key, or a key that may not do this
    ├── QuotaExceeded     a limit that belongs to the caller
    ├── Overloaded        the platform is at its limit; retry later
    ├── EngineError       an engine replica failed, hung or vanished
    ├── ConfigError       settings, files or the machine are at fault; raised before serving starts
    └── ClusterError      the Kubernetes cluster refused, failed or does not get there
        └── TimedOut      not within the time it was given; it may still come

Adapters translate vendor exceptions into this tree and chain them. Core code never names HTTP:
the one mapping to status codes is `serving.gateway.error_table`.
"""

from __future__ import annotations


class ServingError(Exception):
    """A failure with a stable `code` that clients and operators may match on.

    Args:
        message: one sentence for a person: what is wrong and, where known, how to mend it.
            Never holds a file path of the server, a replica address, a key or a prompt.
        code: stable snake_case identifier; part of the public API.
        param: the request or settings field at fault, dotted.
        retryable: whether the same request may succeed later.
        retry_after_s: when to try again, if that can be said.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retryable: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.retryable = retryable
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        """Ray carries errors between processes by pickle, which would forget keyword arguments."""
        return _restore, (type(self), self.args), self.__dict__


def _restore(kind: type[ServingError], args: tuple[object, ...]) -> ServingError:
    return kind.__new__(kind, *args)


class RequestError(ServingError):
    """The request is malformed, too large, or names something that does not exist."""


class AccessError(ServingError):
    """The caller is unknown or not allowed."""


class QuotaExceeded(ServingError):
    """A limit of this caller is used up."""


class Overloaded(ServingError):
    """No capacity now; always retryable."""


class EngineError(ServingError):
    """An engine replica failed while it held the request."""


class ConfigError(ServingError):
    """Settings or the machine are at fault. `hint` says how to mend it."""

    def __init__(
        self, message: str, *, code: str, param: str | None = None, hint: str = ""
    ) -> None:
        super().__init__(message, code=code, param=param)
        self.hint = hint


class ClusterError(ServingError):
    """The cluster refused, failed or does not get there. `hint` says how to mend it."""

    def __init__(
        self,
        message: str,
        *,
        code: str,
        hint: str = "",
        retryable: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, code=code, retryable=retryable, retry_after_s=retry_after_s)
        self.hint = hint


class TimedOut(ClusterError):
    """It did not happen within the time it was given, and may still happen."""
