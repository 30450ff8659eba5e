"""The one translation of the API's refusals into Galerne's errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serving.adapters.kube.resources import Resource, version_path
from serving.errors import ClusterError, ConfigError


@dataclass(frozen=True, slots=True)
class Attempt:
    """What was asked: an RBAC verb, a kind, and an object or all of a namespace or cluster."""

    verb: str
    resource: Resource | None = None
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    is_apply: bool = False

    @property
    def subject(self) -> str:
        """The object in words.

        >>> Attempt("get", Resource("v1", "Pod", "pods"), "prod", "a").subject
        "pods 'a' in namespace 'prod'"
        """
        if self.resource is None:
            return "the API's list of kinds"
        what = self.resource.qualified + (f"/{self.subresource}" if self.subresource else "")
        named = f" {self.name!r}" if self.name else ""
        where = f" in namespace {self.namespace!r}" if self.namespace else ""
        return f"{what}{named}{where}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is no success: its code, the API's `Status` if it sent one, and how long to
    wait before the next try, in seconds."""

    code: int
    status: Mapping[str, Any] = field(default_factory=dict)
    retry_after_s: float | None = None

    @property
    def message(self) -> str:
        return str(self.status.get("message") or f"HTTP {self.code}")

    @property
    def details(self) -> Mapping[str, Any]:
        found = self.status.get("details")
        return found if isinstance(found, Mapping) else {}

    @property
    def is_of_schema(self) -> bool:
        """Whether an apply had fields that the schema has not. The API answers 500, as if it had
        failed: https://github.com/kubernetes/kubernetes/issues/139253, drop this once that is
        mended in the oldest supported release."""
        return self.code == 500 and "failed to create typed patch object" in self.message

    def has_cause(self, reason: str) -> bool:
        """Whether the API names this reason among the causes."""
        return any(each.get("reason") == reason for each in self.details.get("causes") or ())


_SAID_BY_APIS_ONLY = frozenset({*range(300, 401), 409, 410, 422})
"""Codes that an API explains. Proxies redirect to logins, and a server of HTTPS that is asked in
plain HTTP answers 400. Others mean something on their own: a kind that is not served is a bare 404.
"""


class ObjectMissing(ClusterError):
    """There is no such object."""


class KindMissing(ConfigError):
    """The API has no such kind: a CRD is not installed, or only in another version."""


class NamespaceMissing(ConfigError):
    """There is no such namespace."""


class Conflict(ClusterError):
    """Somebody else has changed the object meanwhile, or made one of that name."""


class FieldConflict(ClusterError):
    """Another manager owns fields that an apply would change. `fields` names both."""

    def __init__(self, message: str, *, fields: tuple[str, ...]) -> None:
        super().__init__(
            message,
            code="kube_field_conflict",
            hint="change them where they are made, or take them over with --force",
        )
        self.fields = fields


class BudgetForbids(ClusterError):
    """A PodDisruptionBudget does not let this pod go now."""


class VersionExpired(ClusterError):
    """The API has forgotten that version: list again."""


def to_refusal(code: int, body: bytes, retry_after: str | None) -> Refusal:
    """What an answer says. Proxies in front of an API answer in HTML, and then it says nothing.

    >>> to_refusal(404, b"404 page not found", None).message
    'HTTP 404'
    """
    try:
        status = json.loads(body)
    except ValueError:
        status = {}
    if not isinstance(status, Mapping) or status.get("kind") != "Status":
        status = {}
    seconds = float(retry_after) if retry_after and retry_after.isdigit() else None
    return Refusal(code, status, seconds)


def to_error(refusal: Refusal, attempt: Attempt) -> ClusterError | ConfigError:
    """The error for an answer."""
    if refusal.is_of_schema:
        return _invalid(refusal, attempt)
    if not refusal.status and refusal.code in _SAID_BY_APIS_ONLY:
        return no_api(f"HTTP {refusal.code}", attempt)
    makers = {400: _invalid, 401: _unauthorized, 403: _forbidden, 404: _missing, 409: _conflict,
              410: _expired, 422: _invalid, 429: _too_many}  # fmt: skip
    return makers.get(refusal.code, _failed)(refusal, attempt)


def no_api(answer: str, attempt: Attempt) -> ConfigError:
    """Something answers, but no Kubernetes API."""
    return ConfigError(
        f"what answers is no Kubernetes API: {answer} to {attempt.verb} {attempt.subject}",
        code="kube_no_api",
        hint="is the server's address in the kubeconfig right, with https:// and the port; or does "
        "a proxy in between want a login?",
    )


def _unauthorized(_refusal: Refusal, _attempt: Attempt) -> ConfigError:
    return ConfigError(
        "the Kubernetes API does not know you: the credentials are wrong or have expired",
        code="kube_unauthorized",
        hint="log in to the cluster again, or name another context with --context",
    )


def _forbidden(refusal: Refusal, attempt: Attempt) -> ConfigError:
    # Admission refuses with 403 too, such as a quota; only then its words say more than ours.
    if refusal.status and not _is_of_rights(refusal):
        return ConfigError(f"{attempt.subject}: {refusal.message}", code="kube_admission", hint="")
    return ConfigError(
        f"you may not {_needed(refusal, attempt)} {attempt.subject}",
        code="kube_forbidden",
        hint=f"a role needs {_rule(attempt)}"
        if refusal.status
        else "the answer is not the API's own: a proxy in front of it refuses",
    )


def _is_of_rights(refusal: Refusal) -> bool:
    """Whether the refusal is of the authorizer. To an apply that would create it says nothing but
    that, or what RBAC could not resolve.

    Source: kubernetes, pkg apiserver/pkg/endpoints/handlers/create.go, `withAuthorization`.
    """
    _, found, why = refusal.message.partition("forbidden:")
    is_bare = bool(found) and not why.strip()
    return is_bare or why.strip().startswith(("User ", "RBAC:"))


def _needed(refusal: Refusal, attempt: Attempt) -> str:
    """The verb that was refused: an apply's words name the user only for `patch` itself."""
    is_named = not refusal.status or "forbidden: User" in refusal.message
    return "create" if attempt.is_apply and not is_named else attempt.verb


def _rule(attempt: Attempt) -> str:
    """The RBAC rule that would allow it, in words."""
    if attempt.resource is None:
        return f"nonResourceURLs [{version_path(attempt.name)!r}], verbs [{attempt.verb!r}]"
    plural = attempt.resource.plural + (f"/{attempt.subresource}" if attempt.subresource else "")
    # An apply may find nothing to change, and then it creates.
    verbs = "'create', 'patch'" if attempt.is_apply else repr(attempt.verb)
    scope = f"in namespace {attempt.namespace!r}" if attempt.namespace else "on the whole cluster"
    return (
        f"apiGroups [{attempt.resource.group!r}], resources [{plural!r}], verbs [{verbs}], {scope}"
    )


def _missing(refusal: Refusal, attempt: Attempt) -> ClusterError | ConfigError:
    resource = attempt.resource
    if resource is None or not refusal.details.get("name"):
        return kind_missing(attempt)
    if refusal.details.get("kind") == "namespaces" and resource.plural != "namespaces":
        return namespace_missing(attempt.namespace)
    return ObjectMissing(f"there is no {attempt.subject}", code="kube_not_found")


def kind_missing(attempt: Attempt) -> KindMissing:
    """The API has no such kind."""
    resource = attempt.resource
    what = "such API version"
    if resource is not None:
        what = f"{resource.qualified if resource.plural else resource.kind} "
        what += f"({resource.api_version})"
    ours = resource is not None and resource.group == "ray.io"
    return KindMissing(
        f"the cluster has no {what}",
        code="kube_kind_missing",
        hint="install the KubeRay operator and its CRDs; CRDs are too large for plain kubectl "
        "apply: use --server-side"
        if ours
        else "install its CustomResourceDefinition, or leave the object out",
    )


def namespace_missing(namespace: str) -> NamespaceMissing:
    """There is no such namespace."""
    return NamespaceMissing(
        f"there is no namespace {namespace!r}",
        code="kube_namespace_missing",
        hint=f"kubectl create namespace {namespace}, or name another with --namespace",
    )


def _conflict(refusal: Refusal, attempt: Attempt) -> ClusterError:
    if refusal.has_cause("FieldManagerConflict"):
        fields = tuple(
            f"{each.get('field')}: {each.get('message')}" for each in refusal.details["causes"]
        )
        return FieldConflict(f"{attempt.subject}: {'; '.join(fields)}", fields=fields)
    return Conflict(
        f"{attempt.subject} was changed by somebody else meanwhile",
        code="kube_conflict",
        hint="try again; if it goes on, two controllers write the same fields",
        retryable=True,
    )


def _expired(_refusal: Refusal, attempt: Attempt) -> ClusterError:
    return VersionExpired(
        f"the version of {attempt.subject} has expired", code="kube_expired", retryable=True
    )


def _invalid(refusal: Refusal, attempt: Attempt) -> ConfigError:
    return ConfigError(
        f"{attempt.subject} is not valid: {refusal.message}",
        code="kube_invalid",
        hint="the field names are those of the cluster's API version; a CRD may be too old for it",
    )


def _too_many(refusal: Refusal, attempt: Attempt) -> ClusterError:
    if refusal.has_cause("DisruptionBudget"):
        causes = "; ".join(str(each.get("message")) for each in refusal.details["causes"])
        return BudgetForbids(causes, code="kube_budget", retryable=True)
    return ClusterError(
        f"the Kubernetes API has too much to do: {attempt.verb} {attempt.subject}",
        code="kube_busy",
        hint="try again later, or with a longer --timeout",
        retryable=True,
        retry_after_s=refusal.retry_after_s,
    )


def _failed(refusal: Refusal, attempt: Attempt) -> ClusterError:
    return ClusterError(
        f"the Kubernetes API failed to {attempt.verb} {attempt.subject}: {refusal.message}",
        code="kube_failed",
        hint="see the log of kube-apiserver, or of the webhook that the message names",
        retryable=True,
    )
