"""What the OpenAPI document says, and that nothing a client can send makes the router fail."""

from __future__ import annotations

import asyncio

import httpx
import pytest
import schemathesis
import schemathesis.specs.openapi.schemas  # in the main thread: deep imports in another one fail on Python 3.11
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from contract.api.artist import Artist
from contract.router.conftest import Router

# A stream that ends with its job, and a file: neither is an answer that a schema describes.
SKIPPED = {"watch_job"}


async def test_every_operation_is_documented_with_its_errors(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    operations = {(path, method): item for path, paths in document["paths"].items() for method, item in paths.items()}
    assert {path for path, _ in operations} == {
        "/v1/images/generations",
        "/v1/images/edits",
        "/v1/videos",
        "/v1/videos/{video_id}",
        "/v1/videos/{video_id}/content",
        "/v1/jobs",
        "/v1/jobs/{job_id}",
        "/v1/jobs/{job_id}/events",
        "/v1/files/{key}",
        "/v1/models",
        "/v1/models/{model_id}",
        "/healthz",
        "/readyz",
    }
    for (path, method), operation in operations.items():
        assert operation["operationId"] and operation["summary"], (path, method)
        if method == "post":
            statuses = set(operation["responses"])
            assert {"400", "413", "422", "429"} <= statuses, path
            for body in operation["requestBody"]["content"].values():
                assert body["schema"]["additionalProperties"] is False
                assert "prompt" in body["schema"]["required"]


def no_failure(_ctx: schemathesis.CheckContext, response: schemathesis.Response, _case: schemathesis.Case) -> None:
    """Of the 5xx, "not now" and "too late" are answers; a failure of the router itself is none."""
    assert response.status_code != 500, response.text


CHECKS = (no_failure, status_code_conformance, content_type_conformance, response_schema_conformance)
BOUNDED = settings(
    max_examples=15,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


async def test_no_input_makes_the_router_fail(router: Router, artist: Artist, subtests: pytest.Subtests) -> None:
    schema = await asyncio.to_thread(schemathesis.openapi.from_url, f"{router.url}/openapi.json")
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.definition.raw["operationId"] in SKIPPED:
            continue
        modes = [schemathesis.GenerationMode.POSITIVE]
        # A path alone can't be wrong.
        if operation.body or operation.query:
            modes.append(schemathesis.GenerationMode.NEGATIVE)
        for mode in modes:

            @BOUNDED
            @given(operation.as_strategy(generation_mode=mode))
            def check(case: schemathesis.Case) -> None:
                case.call_and_validate(checks=CHECKS, timeout=20)

            with subtests.test(operation.label, mode=mode.value):
                await asyncio.to_thread(check)
