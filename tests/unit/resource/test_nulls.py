"""`field: null`, as a template leaves it whose value is not given, means that the field was left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from diffusion_operator.api import InvalidResourceError, crd, from_live, load_pipeline, with_defaults
from unit.resource.nulls import Optional, optional_fields
from unit.resource.test_definition import PLURALS

PIPELINES = optional_fields(crd.PLURAL)


def resource(spec: Mapping[str, Any]) -> dict[str, Any]:
    kind = {"apiVersion": crd.API_VERSION, "kind": crd.KIND, "metadata": {"name": "painter"}}
    return {**kind, "spec": spec}


def outcome(spec: Mapping[str, Any]) -> dict[str, Any] | str:
    try:
        return with_defaults(resource(spec))
    except InvalidResourceError as error:
        return str(error)


@pytest.mark.parametrize("field", PIPELINES, ids=lambda field: field.path)
def test_a_null_is_as_if_the_field_were_left_out(field: Optional) -> None:
    assert outcome(field.null) == outcome(field.absent)


def test_that_is_asked_of_nearly_every_field_within_a_resource_that_is_accepted() -> None:
    refused = [field.path for field in PIPELINES if isinstance(outcome(field.absent), str)]
    # Where one of several fields is required, they are all left out.
    of_several = ("valueFrom", "networkPolicy", "resourceClaims[")
    assert all(any(part in path for part in of_several) for path in refused), refused
    assert len(refused) < len(PIPELINES) / 3


@pytest.mark.parametrize("plural", PLURALS)
def test_every_field_without_a_default_is_nullable_since_a_server_side_apply_refuses_its_null_otherwise(
    plural: str,
) -> None:
    found = optional_fields(plural)
    assert [field.path for field in found if "default" not in field.schema and not field.schema.get("nullable")] == []
    # The API server holds null to an enum.
    assert [field.path for field in found if field.schema.get("nullable") and "enum" in field.schema] == []


@pytest.mark.parametrize("plural", PLURALS)
def test_no_other_field_is_nullable_so_that_its_null_is_replaced_by_its_default(plural: str) -> None:
    def nullable(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        parts = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
        for part in parts:
            if isinstance(part, Mapping):
                yield from ([part] if part.get("nullable") else [])
                yield from nullable(part)

    expected = [id(field.schema) for field in optional_fields(plural) if "default" not in field.schema]
    assert {id(schema) for schema in nullable(crd.schema(plural))} == set(expected)


@pytest.mark.parametrize("field", PIPELINES, ids=lambda field: field.path)
def test_a_null_that_the_api_server_keeps_changes_no_pipeline(field: Optional) -> None:
    if isinstance(outcome(field.absent), str):
        return
    live = resource(field.null) | {"metadata": {"name": "painter", "namespace": "default", "generation": 1}}
    assert from_live(live) == load_pipeline(resource(field.absent))
