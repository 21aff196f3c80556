"""The definition is one that an API server takes, `kubectl apply` can store, and `kubectl explain` reads well."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cel
import pytest
import yaml

from diffusion_operator.api import Role, crd, load_pipeline
from diffusion_operator.api.rules import rule_errors
from diffusion_operator.api.schema import with_defaults as with_field_defaults

ROOT = Path(__file__).parents[3]
DEFINITION: dict[str, Any] = crd.definition()
PLURALS = crd.PLURALS
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


def fields(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from fields(field, f"{path}.{name}")
    for part in ("items", "additionalProperties"):
        if part in schema:
            yield f"{path}[]", schema[part]
            yield from fields(schema[part], f"{path}[]")


def test_the_wheel_carries_the_file_that_kubectl_applies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included["crds"] == "diffusion_operator/crds"
    for plural in PLURALS:
        assert crd.definition_text(plural) == (ROOT / "crds" / f"{plural}.yaml").read_text()
    assert sorted(f"{plural}.yaml" for plural in PLURALS) == sorted(file.name for file in (ROOT / "crds").iterdir())


@pytest.mark.parametrize("plural", PLURALS)
def test_it_is_small_enough_for_a_plain_kubectl_apply(plural: str) -> None:
    assert len(json.dumps(crd.definition(plural), separators=(",", ":"))) < 128 * 1024


@pytest.mark.parametrize("plural", PLURALS)
def test_every_field_is_described(plural: str) -> None:
    silent = [
        path for path, field in fields(crd.schema(plural)) if path != ".metadata" and not field.get("description")
    ]
    assert silent == []


@pytest.mark.parametrize("plural", PLURALS)
def test_every_field_has_a_type_as_a_structural_schema_must(plural: str) -> None:
    untyped = [
        path
        for path, field in fields(crd.schema(plural))
        if "type" not in field
        and not field.get("x-kubernetes-int-or-string")
        and not field.get("x-kubernetes-preserve-unknown-fields")
    ]
    assert untyped == []


@pytest.mark.parametrize("plural", PLURALS)
def test_lists_maps_and_texts_are_bounded_so_that_the_rules_cost_is_bounded(plural: str) -> None:
    unbounded = [
        path
        for path, field in fields(crd.schema(plural)["properties"]["spec"])
        if (field.get("type") == "array" and "maxItems" not in field)
        or ("additionalProperties" in field and "maxProperties" not in field)
        or (field.get("type") == "string" and not {"maxLength", "enum"} & field.keys())
        or (field.get("x-kubernetes-int-or-string") and "maxLength" not in field)
    ]
    assert unbounded == []


def test_parents_of_defaults_have_a_default_themselves_so_that_a_default_stays_behind_nowhere() -> None:
    for path, field in fields(crd.schema()["properties"]["spec"]):
        inner = any("default" in child for child in field.get("properties", {}).values())
        assert not inner or path == ".model" or "default" in field, path


def test_the_default_of_an_object_passes_its_rules_as_it_stands() -> None:
    """The API server evaluates them before it fills in the defaults within, and refuses the definition if one fails."""
    for path, field in fields(crd.schema()):
        default = field.get("default")
        if isinstance(default, dict):
            assert list(rule_errors(default, field)) == [], path
            transitions = [
                rule["rule"] for rule in field.get("x-kubernetes-validations", ()) if "oldSelf" in rule["rule"]
            ]
            for rule in transitions:
                context = cel.Context(variables={"self": default, "oldSelf": default})
                assert cel.compile(rule).execute(context) is True, path


def test_the_default_of_an_object_says_what_its_fields_defaults_say() -> None:
    for path, field in fields(crd.schema()["properties"]["spec"]):
        default = field.get("default")
        # A status is written as a whole: its default says what it says before.
        if isinstance(default, dict) and path != ".status":
            filled = with_field_defaults({}, field)
            assert with_field_defaults(default, field) == filled, path


def test_a_role_scaler_has_replicas_from_the_start_so_that_its_scale_can_be_read() -> None:
    scale = crd.definition(crd.SCALER_PLURAL)["spec"]["versions"][0]["subresources"]["scale"]
    assert scale["specReplicasPath"] == ".spec.replicas"
    assert crd.schema(crd.SCALER_PLURAL)["properties"]["spec"]["properties"]["replicas"]["default"] == 1


def test_scaling_addresses_the_denoiser() -> None:
    scale = DEFINITION["spec"]["versions"][0]["subresources"]["scale"]
    assert scale["specReplicasPath"] == ".spec.roles.denoiser.replicas"
    field = crd.schema()
    for name in scale["specReplicasPath"].removeprefix(".").split("."):
        field = field["properties"][name]
    assert field["default"] == 1


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_every_example_is_valid(file: Path) -> None:
    assert load_pipeline(yaml.safe_load(file.read_text())).name == file.stem


def test_the_examples_show_split_monolith_and_shared_work() -> None:
    by_name = {file.stem: load_pipeline(yaml.safe_load(file.read_text())) for file in EXAMPLES}
    assert len(by_name["digits"].workers()) == 3
    assert len(by_name["digits-colocated"].workers()) == 1
    assert by_name["digits-two-denoisers"].roles[Role.DENOISER].replicas == 2
