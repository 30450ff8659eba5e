"""Models from the Hugging Face hub, in the cache of its own client."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from pathlib import Path

from serving.adapters.model_cache import disk_full
from serving.errors import ConfigError
from serving.settings.weights import WeightSettings


def fetch_snapshot(settings: WeightSettings) -> Path:
    """The folder of a whole repository at its pinned commit.

    Raises:
        ConfigError: `weights_not_found`, `weights_gated`, `weights_token_refused`,
            `weights_unreachable`, `disk_full`.
    """
    try:
        return _fetch(settings)
    except Exception as error:  # the hub client also lets its HTTP library's errors through
        raise to_config_error(error, settings.source) from error


def fetch_files(settings: WeightSettings, patterns: Sequence[str]) -> Path:
    """The snapshot's folder with at least the files that match.

    Raises:
        ConfigError: as `fetch_snapshot`.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                settings.source, revision=settings.revision, allow_patterns=list(patterns)
            )
        )
    except Exception as error:  # the hub client also lets its HTTP library's errors through
        raise to_config_error(error, settings.source) from error


def to_config_error(error: Exception, source: str) -> ConfigError:
    """The `ConfigError` for what huggingface_hub raised while it fetched `source`."""
    from huggingface_hub import errors as hub

    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return disk_full()
    if isinstance(error, hub.GatedRepoError):
        return ConfigError(
            f"{source} is gated: its owner has not given this account access",
            code="weights_gated",
            param="weights.source",
            hint="Accept the licence on the model's page, then set HF_TOKEN to a read token.",
        )
    if isinstance(error, hub.RepositoryNotFoundError | hub.RevisionNotFoundError):
        return ConfigError(
            f"{source} does not exist at this revision, or is private",
            code="weights_not_found",
            param="weights.source",
            hint="Check source and revision; private repositories need HF_TOKEN.",
        )
    if (
        isinstance(error, hub.HfHubHTTPError)
        and error.response.status_code == HTTPStatus.UNAUTHORIZED
    ):
        return ConfigError(
            f"the hub does not accept the token with which {source} was asked for",
            code="weights_token_refused",
            param="weights.source",
            hint="Set HF_TOKEN to a valid read token; public models need none.",
        )
    return ConfigError(
        f"{source} cannot be downloaded and is not in the local cache",
        code="weights_unreachable",
        param="weights.source",
        hint="Without a network, copy the model folder here and give its path as weights.source.",
    )


def _fetch(settings: WeightSettings) -> Path:
    """The snapshot's folder; the hub is only asked for what the cache lacks.

    A download begins with a listing that retries for 23 s and waits for an answer without limit
    (`list_repo_tree` of huggingface_hub 2.4.0), so one question with a time limit comes first.
    """
    from huggingface_hub import HfApi, constants, errors, snapshot_download

    fetch = partial(snapshot_download, settings.source, revision=settings.revision)
    if not _is_complete(settings):
        timeout_s = constants.HF_HUB_ETAG_TIMEOUT
        try:
            HfApi().model_info(settings.source, revision=settings.revision, timeout=timeout_s)
        except Exception as refusal:
            try:
                return Path(fetch(local_files_only=True))
            except errors.LocalEntryNotFoundError:
                raise refusal from None
    return Path(fetch())


def _is_complete(settings: WeightSettings) -> bool:
    """Whether the cache holds every file that the hub listed; without that list, nobody knows."""
    from huggingface_hub import errors, get_cached_repo_tree, snapshot_download

    try:
        get_cached_repo_tree(settings.source, revision=settings.revision)
        snapshot_download(settings.source, revision=settings.revision, local_files_only=True)
    except (errors.CachedRepoTreeNotFoundError, errors.LocalEntryNotFoundError):
        return False
    return True
