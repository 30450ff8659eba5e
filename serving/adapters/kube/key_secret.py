"""API keys in a Secret, under `keys.json`."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from datetime import datetime

from serving.adapters.key_records import KeyRules, decode, encode, invalid_records
from serving.adapters.kube.client import KubeClient, Object
from serving.adapters.kube.failures import ObjectMissing
from serving.adapters.kube.resources import SECRETS
from serving.errors import ConfigError
from serving.tenancy.access import KeyRecord

_KEY = "keys.json"


class KeySecret:
    """The keys of a platform on Kubernetes. Parallel writers lose nothing: a change of what has
    changed meanwhile is made again. Pods see it when the kubelet next syncs, in a minute or two."""

    def __init__(
        self, client: KubeClient, *, namespace: str, name: str, rules: KeyRules | None = None
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._rules = rules or KeyRules()

    def list(self) -> tuple[KeyRecord, ...]:
        """All records, oldest first.

        Raises:
            ConfigError: `secret_missing`, `key_file_invalid`.
        """
        try:
            return _read(self._client.get(SECRETS, self._name, namespace=self._namespace))
        except ObjectMissing as error:
            raise self._missing() from error

    def create(
        self, name: str, *, expires_at: datetime | None = None, is_operator: bool = False
    ) -> tuple[str, KeyRecord]:
        """The text of a new key, shown here only, and its stored record.

        Raises:
            ConfigError: as `KeyFile.create`, and `secret_missing`.
        """
        key, record = self._rules.issue(name, expires_at=expires_at, is_operator=is_operator)
        self._change(lambda records: self._rules.added(records, record))
        return key, record

    def revoke(self, id_or_name: str) -> KeyRecord:
        """The revoked record: the key of that id, else the newest of that name.

        Raises:
            ConfigError: as `KeyFile.revoke`, and `secret_missing`.
        """
        newest: list[KeyRecord] = []

        def revoked(records: Sequence[KeyRecord]) -> Sequence[KeyRecord]:
            after, record = self._rules.revoked(records, id_or_name)
            newest.append(record)
            return after

        self._change(revoked)
        return newest[-1]

    def _change(self, change: Callable[[Sequence[KeyRecord]], Sequence[KeyRecord]]) -> None:
        def changed(secret: Object) -> Object:
            before = _read(secret)
            after = tuple(change(before))
            if after == before:
                return secret
            text = base64.b64encode(encode(after)).decode("ascii")
            return {**secret, "data": {**(secret.get("data") or {}), _KEY: text}}

        try:
            self._client.modify(SECRETS, self._name, changed, namespace=self._namespace)
        except ObjectMissing as error:
            raise self._missing() from error

    def _missing(self) -> ConfigError:
        return ConfigError(
            f"there is no Secret {self._name!r} in namespace {self._namespace!r}",
            code="secret_missing",
            hint="is --name the name of the Helm release, and the Secret made?",
        )


def _read(secret: Object) -> tuple[KeyRecord, ...]:
    text = (secret.get("data") or {}).get(_KEY)
    if not text:
        return ()
    try:
        return decode(base64.b64decode(text, validate=True))
    except ValueError as error:
        raise invalid_records("is no base64") from error
