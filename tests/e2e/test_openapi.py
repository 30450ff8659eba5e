"""Generated requests, valid and invalid, against the published API description."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from e2e.harness import MODEL, Platform, assert_error, wait_until

MESSAGES = [{"role": "user", "content": "hi"}]
GROUND: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/v1/chat/completions"): {"messages": MESSAGES, "max_completion_tokens": 2},
    ("POST", "/v1/completions"): {"prompt": "hi", "max_tokens": 2},
    ("POST", "/v1/responses"): {"input": "hi", "max_output_tokens": 2},
    ("POST", "/v1/messages"): {"messages": MESSAGES, "max_tokens": 2},
    ("POST", "/v1/messages/count_tokens"): {"messages": MESSAGES},
    ("POST", "/tokenize"): {"prompt": "hi"},
    ("POST", "/detokenize"): {"tokens": [5, 6]},
    ("GET", "/v1/models"): {},
    ("GET", "/v1/models/{model}"): {},
    ("GET", "/health"): {},
}
"""Every published operation, with the fields that get a request past its first check; the token
limits bound the time of a run."""

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
NUM_EXAMPLES = {GenerationMode.POSITIVE: 25, GenerationMode.NEGATIVE: 10}
"""Making one invalid body from these large schemas costs a second."""


@pytest.fixture(scope="module")
def schema(platform: Platform) -> BaseSchema:
    with platform.anonymous() as client:
        published = client.get("/openapi.json")
    assert published.status_code == 200, published.text
    return schemathesis.openapi.from_dict(published.json())


def test_every_operation_is_exercised(schema: BaseSchema) -> None:
    found = {(r.ok().method.upper(), r.ok().path) for r in schema.get_all_operations()}
    assert found == set(GROUND)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), GROUND, ids=lambda part: part)
def test_generated_requests(
    platform: Platform, schema: BaseSchema, method: str, path: str, mode: GenerationMode
) -> None:
    """No 5xx, and every answer is one that the description allows.

    Positive bodies get enough valid fields to reach the engine with the generated ones.
    """
    operation = schema[path][method]
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.path_parameters):
        pytest.skip("takes no input")
    is_valid = mode is GenerationMode.POSITIVE

    @settings(
        max_examples=NUM_EXAMPLES[mode],
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Case) -> None:
        if isinstance(case.body, dict):
            ground = GROUND[method, path]
            added = ground if is_valid else _bounds(case.body, ground)
            case.body |= {"model": MODEL, **added}
        response = case.call(base_url=platform.endpoint, headers=platform.authorization, timeout=60)
        if response.status_code == 503 and "retry-after" in response.headers:
            return
        case.validate_response(response, checks=CHECKS)
        if response.status_code >= 400:
            headers = {name: values[0] for name, values in response.headers.items()}
            content = response.content or b""
            assert_error(
                response.status_code, headers, content, expect=(response.status_code, None)
            )

    check()
    wait_until(platform.is_idle, timeout_s=10, what="idle after the generated requests")


def _bounds(body: dict[str, Any], ground: dict[str, Any]) -> dict[str, Any]:
    """The token limit alone, unless the body holds a wrong one."""
    limits = {name: value for name, value in ground.items() if name.startswith("max_")}
    return {k: v for k, v in limits.items() if body.get(k) is None or isinstance(body[k], int)}
