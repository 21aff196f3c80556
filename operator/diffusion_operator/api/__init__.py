"""The resource as data: defaults, validation, typed values.

resource = with_defaults(yaml.safe_load(text))     # raises InvalidResourceError
pipeline = load_pipeline(yaml.safe_load(text))     # the same, typed
"""

from collections.abc import Mapping
from typing import Any

from diffusion_operator.api import crd, pipeline, rules, schema
from diffusion_operator.api.crd import API_VERSION, GROUP, KIND, VERSION
from diffusion_operator.api.errors import FieldError, InvalidResourceError
from diffusion_operator.api.pipeline import (
    MODEL_ROLES,
    Model,
    Pipeline,
    Role,
    RoleSpec,
    RouterSettings,
    Transport,
)

__all__ = [
    "API_VERSION",
    "GROUP",
    "KIND",
    "MODEL_ROLES",
    "VERSION",
    "FieldError",
    "InvalidResourceError",
    "Model",
    "Pipeline",
    "Role",
    "RoleSpec",
    "RouterSettings",
    "Transport",
    "load_pipeline",
    "with_defaults",
]


def with_defaults(resource: object) -> dict[str, Any]:
    """The resource as the API server would store it, without status.

    Raises InvalidResourceError with every fault that was found.
    """
    if not isinstance(resource, Mapping):
        raise InvalidResourceError([FieldError((), f"a {KIND} is an object with apiVersion, kind, metadata and spec")])
    _check_kind(resource)
    definition = crd.schema()
    given = {key: value for key, value in schema.without_nulls(resource).items() if key != "status"}
    # The API server knows metadata by a schema of its own; what the rules need of it is its name.
    metadata = given.get("metadata")
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("name"), str):
        raise InvalidResourceError(
            [FieldError(("metadata", "name"), "is required: the pods and Services are named after it")]
        )
    unknown = list(schema.unknown_fields({**given, "metadata": {}}, definition))
    complete: dict[str, Any] = schema.with_defaults(given, definition)
    faults = [*unknown, *schema.schema_errors(complete, definition)]
    # Rules presume the schema's types.
    if not faults:
        faults = list(rules.rule_errors(complete, definition))
    if faults:
        raise InvalidResourceError(faults)
    return complete


def load_pipeline(resource: object) -> Pipeline:
    """The typed values of a resource as a user writes it. Raises InvalidResourceError."""
    return pipeline.from_defaulted(with_defaults(resource))


def _check_kind(resource: Mapping[str, Any]) -> None:
    faults = [
        FieldError((field,), f"must be {wanted}, not {resource.get(field)!r}")
        for field, wanted in (("apiVersion", API_VERSION), ("kind", KIND))
        if resource.get(field) != wanted
    ]
    if faults:
        raise InvalidResourceError(faults)
