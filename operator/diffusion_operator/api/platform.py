"""What the owners of a platform say once, for all pipelines: defaults beneath what each pipeline says itself.

They are put beneath a pipeline that was read (`Platform.beneath`), so everything that renders it, or tells of it, has
them without knowing. What the pipeline says wins: maps by key, variables and secrets by name, tolerations by key and
effect, all else as a whole; rules of egress are added up. The schema and the rules are those of the resource's own
fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path as FilePath
from typing import Any, Final

import yaml

from diffusion_operator.api import crd, rules, schema
from diffusion_operator.api.errors import FieldError, InvalidResourceError
from diffusion_operator.api.labels import check_names
from diffusion_operator.api.modelcache import ModelCache
from diffusion_operator.api.pipeline import CaBundle, Pipeline
from diffusion_operator.api.role import Object, RoleSpec, variable
from diffusionpipeline.words import Role

PODS: Final = "pods"
WORKERS: Final = "workers"
GPU_WORKERS: Final = "gpuWorkers"
ROUTER: Final = "router"
KINDS_OF_PODS: Final = (PODS, WORKERS, GPU_WORKERS, ROUTER)
"""Sections about pods: of all, of workers, of workers with GPUs, of routers. A later one wins over an earlier one."""

CA_KEY: Final = "ca-bundle.crt"
"""As OpenShift calls it where it puts its own bundle in; other tools are told what to call it."""

_OF_THE_SPEC: Final = ("imagePullSecrets", "commonLabels", "commonAnnotations", "securityProfile")
_OF_A_ROLE: Final = ("env", "tolerations", "nodeSelector", "priorityClassName", "runtimeClassName")
_CONTEXTS: Final = ("podSecurityContext", "securityContext")


@dataclass(frozen=True, kw_only=True)
class PodDefaults:
    env: tuple[Object, ...] = ()
    scheduling: Object = field(default_factory=dict)
    """As of a role: nodeSelector, tolerations and so on."""
    pod_security: Object = field(default_factory=dict)
    security: Object = field(default_factory=dict)
    """Of the container main."""


@dataclass(frozen=True, kw_only=True)
class Platform:
    registry: str = ""
    """Of the images that the operator's own version brings. Empty: theirs."""
    pull_secrets: tuple[str, ...] = ()
    ca_bundle: CaBundle | None = None
    storage_class: str = ""
    node_folder: str = ""
    """Of nodes, with all model caches in it. Empty: the operator's own choice."""
    security_profile: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    egress: tuple[Object, ...] = ()
    """Rules of network policies: what the pods of all isolated pipelines may reach."""
    pods: Mapping[str, PodDefaults] = field(default_factory=dict)
    """By section."""

    def image(self, reference: str) -> str:
        """One of the operator's own, in the platform's registry."""
        if not self.registry:
            return reference
        first, slash, rest = reference.partition("/")
        # As Docker tells a registry from a folder of its own.
        has_registry = slash and ("." in first or ":" in first or first == "localhost")
        return f"{self.registry}/{rest if has_registry else reference}"

    def beneath(self, pipeline: Pipeline) -> Pipeline:
        if self is NOTHING:
            return pipeline
        model, router = pipeline.model, pipeline.router
        cache = replace(
            model.cache,
            storage_class=model.cache.storage_class or self.storage_class,
            node_folder=self.node_folder or model.cache.node_folder,
        )
        isolation = pipeline.isolation
        if isolation is not None:
            isolation = replace(isolation, egress=(*self.egress, *isolation.egress))
        storage = replace(router.storage, storage_class=router.storage.storage_class or self.storage_class)
        return replace(
            pipeline,
            labels={**self.labels, **pipeline.labels},
            annotations={**self.annotations, **pipeline.annotations},
            pull_secrets=tuple(dict.fromkeys((*self.pull_secrets, *pipeline.pull_secrets))),
            ca_bundle=self.ca_bundle,
            isolation=isolation,
            security_profile=pipeline.security_profile or self.security_profile,
            model=replace(model, cache=cache),
            router=replace(router, storage=storage),
            roles={role: self._beneath_role(spec) for role, spec in pipeline.roles.items()},
        )

    def beneath_cache(self, cache: ModelCache) -> ModelCache:
        """Its pods are of the kind `workers`."""
        if self is NOTHING:
            return cache
        return replace(
            cache,
            labels=self.labels,
            annotations=self.annotations,
            pull_secrets=tuple(dict.fromkeys((*self.pull_secrets, *cache.pull_secrets))),
            ca_bundle=self.ca_bundle,
            node_folder=self.node_folder or cache.node_folder,
            roles={role: self._beneath_role(spec) for role, spec in cache.roles.items()},
        )

    def _beneath_role(self, spec: RoleSpec) -> RoleSpec:
        # The most particular first: each goes beneath what is there.
        for section in reversed(_sections_of(spec)):
            if (given := self.pods.get(section)) is not None:
                spec = _beneath(given, spec)
        return spec


NOTHING: Final = Platform()


def platform_schema() -> dict[str, Any]:
    """Of the file. Shared: do not change it."""
    return _schema()


def read_document(path: FilePath) -> Any:
    """The one document of a platform's file, which is right; None: it is empty.

    Raises InvalidResourceError with every fault, OSError, UnicodeDecodeError.
    """
    try:
        documents = [item for item in yaml.safe_load_all(path.read_text(encoding="utf-8")) if item is not None]
    except yaml.YAMLError as error:
        raise InvalidResourceError([FieldError((), f"is not YAML: {error}")]) from None
    if len(documents) > 1:
        raise InvalidResourceError([FieldError((), f"has {len(documents)} documents: give a file with one")])
    document = documents[0] if documents else None
    load_platform(document)
    return document


def load_platform(document: object) -> Platform:
    """Of a file's one document; nothing in it: no defaults. Raises InvalidResourceError with every fault."""
    if document is None:
        return NOTHING
    definition = _schema()
    if not isinstance(document, Mapping):
        raise InvalidResourceError([FieldError((), f"must be an object with {', '.join(definition['properties'])}")])
    given = schema.without_nulls(document, definition)
    faults = [*schema.unknown_fields(given, definition), *schema.schema_errors(given, definition)]
    if not faults:
        faults = list(rules.rule_errors(given, definition))
    if faults:
        raise InvalidResourceError(faults)
    bundle = given.get("caBundle")
    return Platform(
        registry=given.get("imageRegistry", ""),
        pull_secrets=tuple(secret["name"] for secret in given.get("imagePullSecrets", ())),
        ca_bundle=CaBundle(config_map=bundle["configMap"], key=bundle.get("key", CA_KEY)) if bundle else None,
        storage_class=given.get("storageClassName", ""),
        node_folder=given.get("modelCachePath", ""),
        security_profile=given.get("securityProfile", ""),
        labels=check_names(given.get("commonLabels", {}), ("commonLabels",)),
        annotations=check_names(given.get("commonAnnotations", {}), ("commonAnnotations",)),
        egress=tuple(given.get("egress", ())),
        pods={section: _pods(given[section]) for section in KINDS_OF_PODS if section in given},
    )


def _pods(spec: Object) -> PodDefaults:
    return PodDefaults(
        env=tuple(variable(item) for item in spec.get("env", ())),
        scheduling={name: spec[name] for name in _OF_A_ROLE if name != "env" and spec.get(name)},
        pod_security=spec.get("podSecurityContext", {}),
        security=spec.get("securityContext", {}),
    )


def _sections_of(spec: RoleSpec) -> tuple[str, ...]:
    if spec.role is Role.ROUTER:
        return (PODS, ROUTER)
    return (PODS, WORKERS, GPU_WORKERS) if spec.gpus else (PODS, WORKERS)


def _beneath(given: PodDefaults, spec: RoleSpec) -> RoleSpec:
    ours, theirs = given.scheduling, spec.scheduling
    scheduling = {**ours, **theirs}
    if "nodeSelector" in ours:
        scheduling["nodeSelector"] = {**ours["nodeSelector"], **theirs.get("nodeSelector", {})}
    if "tolerations" in ours:
        said = {_taint(item) for item in theirs.get("tolerations", ())}
        more = [item for item in ours["tolerations"] if _taint(item) not in said]
        scheduling["tolerations"] = [*more, *theirs.get("tolerations", ())]
    return replace(
        spec,
        env=(*_others(given.env, spec.env), *spec.env),
        scheduling=scheduling,
        pod_security={**given.pod_security, **spec.pod_security},
        security={**given.security, **spec.security},
    )


def _others(ours: Iterable[Object], theirs: Iterable[Object]) -> list[Object]:
    names = {item["name"] for item in theirs}
    return [item for item in ours if item["name"] not in names]


def _taint(toleration: Object) -> tuple[str, str]:
    return toleration.get("key", ""), toleration.get("effect", "")


@cache
def _schema() -> dict[str, Any]:
    spec = crd.schema()["properties"]["spec"]["properties"]
    role = spec["roles"]["properties"]["router"]["properties"]
    # Its inside is for the API server to know, as that of podTemplate.
    context = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    pods = {
        "type": "object",
        "properties": {**{name: role[name] for name in _OF_A_ROLE}, **dict.fromkeys(_CONTEXTS, context)},
    }
    bundle = {
        "type": "object",
        "required": ["configMap"],
        "properties": {"configMap": _text(), "key": _text(r"^[-._a-zA-Z0-9]+$")},
    }
    properties = {
        "imageRegistry": _text(r"^[a-zA-Z0-9][-a-zA-Z0-9.]*(:[0-9]+)?(/[a-z0-9][-a-z0-9._]*)*$"),
        "storageClassName": _text(),
        "modelCachePath": _text(r"^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$"),
        "caBundle": bundle,
        "egress": spec["networkPolicy"]["properties"]["egress"],
        **{name: spec[name] for name in _OF_THE_SPEC},
        **dict.fromkeys(KINDS_OF_PODS, pods),
    }
    return {"type": "object", "properties": properties}


def _text(pattern: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 253}
    return found | ({"pattern": pattern} if pattern else {})
