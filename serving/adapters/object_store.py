"""Object storage (S3 and what speaks its protocol, Google Cloud Storage, Azure), to read from.

Credentials and endpoints come from the environment alone, under the names that `obstore` knows:
settings travel through logs, tickets and ConfigMaps. Everything that goes wrong leaves here as a
`ConfigError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from serving.errors import ConfigError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

_TRUE = frozenset({"1", "true", "on", "yes", "y"})
"""What object_store takes for a yes (`config.rs`, object_store 0.12)."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long storage may keep one waiting. Every wait ends in an error after these."""

    connect_s: float = 5.0
    """To open a connection."""
    stall_s: float = 20.0
    """Without a byte, before or within an answer. obstore has no such limit by default."""
    request_s: float = 900.0
    """For one answer, of 16 MiB at most. obstore's default of 30 s would end a slow download
    that makes progress: https://github.com/apache/arrow-rs-object-store/issues/386"""
    retries: int = 4
    """After connections that failed or broke off and 5xx answers, with growing pauses."""
    retry_s: float = 60.0
    """No retry later than this after a request's begin."""


@dataclass(frozen=True, slots=True)
class _Cloud:
    """What one kind of storage is called, and its environment variables."""

    bucket_word: str
    endpoints: tuple[str, ...]
    """The first that is set counts."""
    allow_http: str
    credentials: str


_CLOUDS = {
    "s3": _Cloud(
        "bucket",
        ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
        "AWS_ALLOW_HTTP",
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION",
    ),
    "gs": _Cloud(
        "bucket", ("GOOGLE_BASE_URL",), "GOOGLE_ALLOW_HTTP", "GOOGLE_APPLICATION_CREDENTIALS"
    ),
    "az": _Cloud(
        "container",
        ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
        "AZURE_ALLOW_HTTP",
        "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    ),
}


class ModelStore:
    """The objects below one prefix.

    Args:
        source: the prefix as people know it, for messages.
        store: the objects.
    """

    def __init__(self, source: str, store: ObjectStore) -> None:
        self._source = source
        self._store = store

    @classmethod
    def open(
        cls, source: str, environment: Mapping[str, str], patience: Patience | None = None
    ) -> ModelStore:
        """The objects of `s3://BUCKET/PREFIX` and the like. Nothing is asked yet.

        Args:
            source: as `WeightSettings.source`.
            environment: says whether plain HTTP is wanted; obstore reads the process's own.
            patience: time limits.

        Raises:
            ConfigError: `weights_endpoint_insecure`, or `weights_unreachable` for an environment
                that obstore cannot make sense of.
        """
        from obstore import store

        scheme, _, location = source.partition("://")
        bucket, _, prefix = location.rstrip("/").partition("/")
        patience = patience or Patience()
        options = _client_options(scheme, environment, patience)
        retries = _retries(patience)
        with _told(source, "its objects"):
            match scheme:
                case "s3":
                    opened: ObjectStore = store.S3Store(
                        bucket, prefix=prefix or None, client_options=options, retry_config=retries
                    )
                case "gs":
                    opened = store.GCSStore(
                        bucket, prefix=prefix or None, client_options=options, retry_config=retries
                    )
                case _:
                    opened = store.AzureStore(
                        bucket, prefix=prefix or None, client_options=options, retry_config=retries
                    )
        return cls(source, opened)

    def size_bytes(self, name: str) -> int:
        """Length of an object.

        Raises:
            ConfigError: `weights_not_found`, `weights_credentials_refused`, `weights_unreachable`.
        """
        import obstore

        with _told(self._source, name):
            size_bytes: int = obstore.head(self._store, name)["size"]
        return size_bytes

    def read(self, name: str, start: int, end: int) -> memoryview:
        """The bytes of an object from `start` up to `end`; fewer if it ends before.

        Raises:
            ConfigError: as `size_bytes`.
        """
        import obstore

        if start == end:  # a range of nothing would be refused
            return memoryview(b"")
        with _told(self._source, name):
            return memoryview(obstore.get_range(self._store, name, start=start, end=end))


def _client_options(
    scheme: str, environment: Mapping[str, str], patience: Patience
) -> ClientConfig:
    cloud = _CLOUDS[scheme]
    # Given options replace what obstore would have read from the environment itself.
    allow_http = environment.get(cloud.allow_http, "").lower() in _TRUE
    endpoint = next((environment[name] for name in cloud.endpoints if environment.get(name)), "")
    if endpoint.startswith("http://") and not allow_http:
        raise ConfigError(
            "the object storage's endpoint is plain HTTP, which anyone between can read",
            code="weights_endpoint_insecure",
            param="weights.source",
            hint=f"Use https://, or set {cloud.allow_http}=true where replicas run if you trust "
            "that network. The manifest proves the files either way.",
        )
    return {
        "allow_http": allow_http,
        "connect_timeout": timedelta(seconds=patience.connect_s),
        "read_timeout": timedelta(seconds=patience.stall_s),
        "timeout": timedelta(seconds=patience.request_s),
    }


def _retries(patience: Patience) -> RetryConfig:
    return {
        "max_retries": patience.retries,
        "retry_timeout": timedelta(seconds=patience.retry_s),
    }


@contextmanager
def _told(source: str, name: str) -> Iterator[None]:
    """What storage says no to becomes a `ConfigError`.

    obstore's own text is chained: it leaves out URLs that hold a signature or token.
    """
    from obstore import exceptions

    cloud = _CLOUDS[source.partition("://")[0]]
    try:
        yield
    except FileNotFoundError as error:
        raise _fault(
            f"{source} has no {name}, or there is no such {cloud.bucket_word}",
            "weights_not_found",
            f"Check {cloud.bucket_word} and prefix; the prefix is what directly holds the "
            "manifest and the files it lists.",
        ) from error
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise _fault(
            f"the credentials may not read {name} of {source}",
            "weights_credentials_refused",
            f"Set {cloud.credentials} where replicas run to credentials that may read this "
            f"{cloud.bucket_word}; some storage answers so for what does not exist, too.",
        ) from error
    except (exceptions.BaseError, OSError, ValueError) as error:
        raise _fault(
            f"{name} of {source} cannot be downloaded: the storage is out of reach, broke off, or "
            "wants credentials that are not set",
            "weights_unreachable",
            f"Check {cloud.endpoints[0]} and {cloud.credentials} where replicas run. "
            "Files that were whole are kept, so that the next try goes on from there.",
        ) from error


def _fault(message: str, code: str, hint: str) -> ConfigError:
    return ConfigError(message, code=code, param="weights.source", hint=hint)
