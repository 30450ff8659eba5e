"""The kinds of one server, and what it makes of objects of each on the way in and out."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from kube_api.definitions import CustomKind, kinds_of
from kube_api.resource_types import BUILT_IN, ResourceType
from kube_api.schemas import Complaints, built_in_complaints, custom_complaints
from kube_api.status_bodies import strict_decoding
from kube_api.structural import Schema, defaulted, pruned

Object = dict[str, Any]

DEFINITIONS = next(each for each in BUILT_IN if each.kind == "CustomResourceDefinition")


class Kinds:
    """Built-in kinds, and custom ones whose definition is there."""

    def __init__(self) -> None:
        self._custom: dict[ResourceType, CustomKind] = {}

    def listed(self) -> list[ResourceType]:
        """All kinds."""
        return [*BUILT_IN, *self._custom]

    def redefine(self, before: Object | None, after: Object | None) -> None:
        """The kinds of a definition are those it has now."""
        for kind in kinds_of(before) if before else ():
            del self._custom[kind.resource]
        for kind in kinds_of(after) if after else ():
            self._custom[kind.resource] = kind

    def schema(self, resource: ResourceType) -> Schema | None:
        """The schema of a custom kind."""
        kind = self._custom.get(resource)
        return None if kind is None else kind.schema

    def read(self, resource: ResourceType, stored: Object) -> Object:
        """A copy of what is stored, with the defaults that the schema has now."""
        return _with_defaults(copy.deepcopy(stored), self.schema(resource))

    def decoded(self, resource: ResourceType, given: Mapping[str, Any], *, strict: bool) -> Object:
        """What a client has sent, without unknown fields and with defaults.

        Raises:
            ApiError: 400, there are unknown fields, which are refused if `strict`.
        """
        value = copy.deepcopy(dict(given))
        if strict and (unknown := self.complaints(resource, value).unknown):
            raise strict_decoding(resource, unknown)
        schema = self.schema(resource)
        return _with_defaults(value if schema is None else pruned(value, schema)[0], schema)

    def complaints(self, resource: ResourceType, value: Object) -> Complaints:
        """What the schema says against an object."""
        kind = self._custom.get(resource)
        return built_in_complaints(value) if kind is None else custom_complaints(kind, value)


def _with_defaults(value: Object, schema: Schema | None) -> Object:
    if schema is None:
        return value
    body = {key: each for key, each in value.items() if key != "metadata"}
    return {**value, **defaulted(body, schema)}
