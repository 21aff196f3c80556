"""The resource as data: defaults, validation, typed values.

resource = with_defaults(yaml.safe_load(text))     # raises InvalidResourceError
pipeline = load_pipeline(yaml.safe_load(text))     # the same, typed
pipeline = from_live(resource)                     # as the API server has it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusion_operator.api import crd, reading, rules, schema
from diffusion_operator.api.crd import (
    API_VERSION,
    CACHE_KIND,
    CACHE_PLURAL,
    GROUP,
    KIND,
    PLURAL,
    SCALER_KIND,
    SCALER_PLURAL,
    VERSION,
)
from diffusion_operator.api.errors import FieldError, InvalidResourceError
from diffusion_operator.api.isolation import Isolation
from diffusion_operator.api.live import read_live
from diffusion_operator.api.model import (
    Adapter,
    AdapterFolder,
    Cache,
    ControlNet,
    ImageEncoder,
    IPAdapter,
    Model,
    Scheduler,
    SecretKey,
)
from diffusion_operator.api.modelcache import ModelCache
from diffusion_operator.api.pipeline import CaBundle, Image, Pipeline, RouterSettings, Scheduling, Storage
from diffusion_operator.api.platform import Platform, load_platform
from diffusion_operator.api.role import Batching, RoleSpec
from diffusion_operator.api.service import ApiService
from diffusion_operator.api.transport import Rdma, Topology, Transport
from diffusion_operator.api.update import Surge, Update, Window
from diffusionpipeline.words import MODEL_ROLES, Role

__all__ = [
    "API_VERSION",
    "CACHE_KIND",
    "CACHE_PLURAL",
    "GROUP",
    "KIND",
    "MODEL_ROLES",
    "PLURAL",
    "SCALER_KIND",
    "SCALER_PLURAL",
    "VERSION",
    "Adapter",
    "AdapterFolder",
    "ApiService",
    "Batching",
    "CaBundle",
    "Cache",
    "ControlNet",
    "FieldError",
    "IPAdapter",
    "Image",
    "ImageEncoder",
    "InvalidResourceError",
    "Isolation",
    "Model",
    "ModelCache",
    "Pipeline",
    "Platform",
    "Rdma",
    "Role",
    "RoleSpec",
    "RouterSettings",
    "Scheduler",
    "Scheduling",
    "SecretKey",
    "Storage",
    "Surge",
    "Topology",
    "Transport",
    "Update",
    "Window",
    "from_live",
    "load_pipeline",
    "load_platform",
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
    given = {key: value for key, value in schema.without_nulls(resource, definition).items() if key != "status"}
    # The API server knows metadata by a schema of its own; what the rules need of it is its name.
    metadata = given.get("metadata")
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("name"), str):
        raise InvalidResourceError(
            [FieldError(("metadata", "name"), "is required: the pods and Services are named after it")]
        )
    unknown = list(schema.unknown_fields({**given, "metadata": {}}, definition))
    complete: dict[str, Any] = schema.with_defaults(given, definition)
    # Its default is for what a cluster has.
    del complete["status"]
    faults = [*unknown, *schema.schema_errors(complete, definition)]
    # Rules presume the schema's types.
    if not faults:
        faults = list(rules.rule_errors(complete, definition))
    if faults:
        raise InvalidResourceError(faults)
    return complete


def load_pipeline(resource: object) -> Pipeline:
    """The typed values of a resource as a user writes it. Raises InvalidResourceError."""
    return reading.from_defaulted(with_defaults(resource))


def from_live(resource: Mapping[str, Any]) -> Pipeline:
    """The typed values of a resource that the API server gave. Raises InvalidResourceError for what can't be read."""
    return read_live(resource, PLURAL, reading.from_defaulted)


def _check_kind(resource: Mapping[str, Any]) -> None:
    faults = [
        FieldError((field,), f"must be {wanted}, not {resource.get(field)!r}")
        for field, wanted in (("apiVersion", API_VERSION), ("kind", KIND))
        if resource.get(field) != wanted
    ]
    if faults:
        raise InvalidResourceError(faults)
