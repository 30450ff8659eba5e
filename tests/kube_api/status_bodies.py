"""The errors of a Kubernetes API, with the bodies the real server gives.

Source: k8s.io/apimachinery, pkg/api/errors/errors.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kube_api.resource_types import ResourceType


class ApiError(Exception):
    """A request that ends with a `Status` of kind Failure."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: dict[str, Any] | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }
        if details:
            self.body["details"] = details
        self.headers: dict[str, str] = {}
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(retry_after_s)
            self.body.setdefault("details", {})["retryAfterSeconds"] = retry_after_s


def _details(resource: ResourceType, name: str, **more: Any) -> dict[str, Any]:
    found = {"name": name, "group": resource.group, "kind": resource.plural, **more}
    return {key: value for key, value in found.items() if value}


def not_found(resource: ResourceType, name: str) -> ApiError:
    return ApiError(
        404, "NotFound", f'{resource.qualified} "{name}" not found',
        details=_details(resource, name),
    )  # fmt: skip


def already_exists(resource: ResourceType, name: str) -> ApiError:
    return ApiError(
        409, "AlreadyExists", f'{resource.qualified} "{name}" already exists',
        details=_details(resource, name),
    )  # fmt: skip


def conflict(resource: ResourceType, name: str) -> ApiError:
    message = (
        f'Operation cannot be fulfilled on {resource.qualified} "{name}": the object has been '
        "modified; please apply your changes to the latest version and try again"
    )
    return ApiError(409, "Conflict", message, details=_details(resource, name))


def wrong_uid(resource: ResourceType, name: str) -> ApiError:
    message = (
        f'Operation cannot be fulfilled on {resource.qualified} "{name}": the UID in the '
        "precondition does not match the UID in record. The object might have been deleted and "
        "then recreated"
    )
    return ApiError(409, "Conflict", message, details=_details(resource, name))


def field_conflicts(found: Sequence[tuple[str, str]]) -> ApiError:
    """`found`: manager and field of each conflict."""
    count = f"{len(found)} conflict{'s' * (len(found) > 1)}"
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {manager}", "field": path}
        for manager, path in found
    ]
    managers = sorted({manager for manager, _ in found})
    named = ", ".join(f"conflict{'s' * (len(found) > 1)} with {each}" for each in managers)
    fields = ", ".join(path for _, path in found)
    return ApiError(
        409, "Conflict", f"Apply failed with {count}: {named}: {fields}",
        details={"causes": causes},
    )  # fmt: skip


def invalid(resource: ResourceType, name: str, causes: Sequence[tuple[str, str]]) -> ApiError:
    """`causes`: field and complaint of each."""
    listed = ", ".join(f"{path}: {complaint}" for path, complaint in causes)
    text = f"[{listed}]" if len(causes) > 1 else listed
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    rows = [{"reason": "FieldValueInvalid", "message": c, "field": p} for p, c in causes]
    details = _details(resource, name, causes=rows) | {"kind": resource.kind}
    return ApiError(422, "Invalid", f'{kind} "{name}" is invalid: {text}', details=details)


def untyped_patch(resource: ResourceType, namespace: str, name: str, complaint: str) -> ApiError:
    """What the server says of an apply whose fields are not those of the schema, without a reason.

    Source: kubernetes#139253.
    """
    error = ApiError(
        500, "", f"failed to create typed patch object ({namespace}/{name}; "
        f"{resource.api_version}, Kind={resource.kind}): {complaint}",
    )  # fmt: skip
    del error.body["reason"]
    return error


def strict_decoding(resource: ResourceType, unknown: Sequence[str]) -> ApiError:
    fields = ", ".join(f'unknown field "{each}"' for each in unknown)
    return bad_request(
        f"{resource.kind} in version {resource.version!r} cannot be handled as a {resource.kind}: "
        f"strict decoding error: {fields}"
    )


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def forbidden(group: str, plural: str, name: str, reason: str) -> ApiError:
    """`reason` is empty where an apply would create and may not: the real server says no more.

    Source: kubernetes, pkg apiserver/pkg/endpoints/handlers/responsewriters/errors.go, create.go.
    """
    qualified = f"{plural}.{group}" if group else plural
    named = f' "{name}"' if name else ""
    details = {"name": name, "group": group, "kind": plural}
    return ApiError(
        403, "Forbidden", f"{qualified}{named} is forbidden: {reason}",
        details={key: value for key, value in details.items() if value},
    )  # fmt: skip


def expired(version: int, oldest: int) -> ApiError:
    return ApiError(410, "Expired", f"too old resource version: {version} ({oldest})")


def too_many_requests(retry_after_s: int | None) -> ApiError:
    return ApiError(
        429, "TooManyRequests", "the server has received too many requests and has asked us to "
        "try again later", retry_after_s=retry_after_s,
    )  # fmt: skip


def disruption_budget(budget: str, needed: int, healthy: int) -> ApiError:
    """Source: kubernetes, pkg/registry/core/pod/storage/eviction.go."""
    message = (
        f"The disruption budget {budget} needs {needed} healthy pods and has {healthy} currently"
    )
    return ApiError(
        429, "TooManyRequests",
        "Cannot evict pod as it would violate the pod's disruption budget.",
        details={"causes": [{"reason": "DisruptionBudget", "message": message}]},
    )  # fmt: skip


def internal_error() -> ApiError:
    return ApiError(
        500, "InternalError", "Internal error occurred: etcdserver: request timed out",
        details={"causes": [{"message": "etcdserver: request timed out"}]},
    )  # fmt: skip


def unsupported_patch(content_type: str) -> ApiError:
    return ApiError(
        415, "UnsupportedMediaType", f"the body of the request was in an unknown format: "
        f"{content_type}",
    )  # fmt: skip
