"""Where a model's files come from, and how they are trusted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from serving.settings.section import Section

DEMO_SOURCE = "demo"
"""`weights.source` of the bundled demonstration model."""

_HF_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
_COMMIT = r"^[0-9a-f]{40}$"
_SHA256 = r"^[0-9a-f]{64}$"
_OBJECT_SCHEMES = ("s3://", "gs://", "az://")
_OBJECT_URL = re.compile(
    r"(s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]*(/(?!\.{1,2}(/|$))[A-Za-z0-9._=+ -]+)*/?"
)
"""Bucket and prefix, with nothing that would be a credential, a query or another folder."""


class WeightSettings(Section):
    """Where a model's files come from and how they are trusted."""

    source: str
    """`demo`, a local folder (absolute, or beginning with `./` or `~/`), a Hugging Face id
    `owner/name`, or object storage: `s3://BUCKET/PREFIX`, `gs://…`, `az://…`. docs/weights.md tells
    where the credentials come from."""
    revision: str | None = Field(None, pattern=_COMMIT)
    """Commit of a Hugging Face repository, 40 hex digits. Required for Hugging Face ids: a branch
    or tag can be moved under you."""
    sha256_manifest: Path | None = None
    """File in `sha256sum` format that lists every weight file, paths relative to the model folder.
    `None` trusts the source, unless `manifest_sha256` is set. Any mismatch, missing or unlisted
    weight file refuses to start."""
    manifest_sha256: str | None = Field(None, pattern=_SHA256)
    """SHA-256 of the manifest itself, 64 hex digits: `sha256sum SHA256SUMS`. The manifest may then
    come with the model, as `SHA256SUMS` in its folder, if `sha256_manifest` names no other file.
    Object storage needs this or `sha256_manifest`: objects can be replaced under you. `None` takes
    the manifest as it is."""

    @property
    def is_local(self) -> bool:
        return self.source.startswith(("/", "./", "../", "~"))

    @property
    def is_object_storage(self) -> bool:
        return self.source.startswith(_OBJECT_SCHEMES)

    @property
    def is_on_hub(self) -> bool:
        """Whether the source is a Hugging Face id."""
        return not (self.source == DEMO_SOURCE or self.is_local or self.is_object_storage)

    @model_validator(mode="after")
    def _source_is_pinned(self) -> Self:
        if self.is_on_hub:
            self._check_hub_id()
        elif self.revision is not None:
            raise ValueError("revision applies to Hugging Face ids only; remove it")
        if self.is_object_storage:
            self._check_object_url()
        return self

    def _check_hub_id(self) -> None:
        if not _HF_ID.match(self.source):
            raise ValueError(
                f"source {self.source!r} is neither 'demo', a folder (/…, ./…, ~/…), object "
                "storage (s3://…, gs://…, az://…) nor a Hugging Face id owner/name"
            )
        if self.revision is None:
            raise ValueError("a Hugging Face source needs revision: the commit, 40 hex digits")

    def _check_object_url(self) -> None:
        if not _OBJECT_URL.fullmatch(self.source):
            raise ValueError("source must be bucket and prefix only, as in s3://BUCKET/PREFIX")
        if self.manifest_sha256 is None and self.sha256_manifest is None:
            raise ValueError(
                "an object storage source needs manifest_sha256: what `sha256sum SHA256SUMS` "
                "prints for the model's manifest (or sha256_manifest: a local copy of it)"
            )
