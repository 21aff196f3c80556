"""The generation: what two workers must have in common to exchange tensors.

A generation is the hash of the pod template, and peers of different generations never exchange tensors. Roles have
different templates (devices, threads, arguments), yet must work together, and a change of one role's threads must not
part it from the others. So there is one generation a pipeline: the hash over the parts of the worker pods' templates
that decide what a tensor means and how it travels: image, model, revision, dtype, tiles, adapters, ControlNets,
IP-Adapters, schedulers and transport. All worker roles of one revision of the resource carry the same value, in a label
and in DIFFUSION_WORKER_GENERATION.

Adapters, ControlNets, IP-Adapters and schedulers are among them although requests choose them by name: what an encoder
made with a name's weights and scale is gone on with by a denoiser, and what a denoiser parked by another, so within a
generation a name means one thing. How many of a folder's are kept loaded decides nothing but time, and is not.

The variables among these parts make the generation's ConfigMap, which is immutable, as its name is made of their hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from diffusion_operator.api import Pipeline, Role, RoleSpec
from diffusion_operator.render import adapters, controls, ip_adapters, names, rdma, schedulers, storage
from diffusion_operator.render.images import reference

VARIABLE: Final = "DIFFUSION_WORKER_GENERATION"
_EDGES: Final = {
    Role.ENCODER: "DIFFUSION_WORKER_ENCODER_TO_DENOISER",
    Role.DENOISER: "DIFFUSION_WORKER_DENOISER_TO_DECODER",
}


def variables(pipeline: Pipeline) -> dict[str, str]:
    """Of the environment of all workers."""
    model, transport = pipeline.model, pipeline.transport
    source, identity = storage.model_source(pipeline)
    return {
        "DIFFUSION_WORKER_MODEL_SOURCE": source,
        "DIFFUSION_WORKER_MODEL_ID": identity,
        "DIFFUSION_WORKER_MODEL_REVISION": model.revision,
        # Not where there is none, or pipelines from before the field would be of another generation.
        **({"DIFFUSION_WORKER_MODEL_VARIANT": model.variant} if model.variant else {}),
        "DIFFUSION_WORKER_MODEL_DTYPE": model.dtype,
        "DIFFUSION_WORKER_ALLOW_PICKLE": str(model.allow_pickle).lower(),
        # Only where it is so, for the same reason.
        **({"DIFFUSION_WORKER_VAE_TILING": "true"} if model.vae_tiling else {}),
        "DIFFUSION_WORKER_BACKEND": transport.backend,
        "DIFFUSION_WORKER_PROTOCOL": transport.protocol,
        "DIFFUSION_WORKER_FALLBACK": transport.fallback,
        # Not where there are none, for the same reason.
        **{_EDGES[maker]: protocol for maker, protocol in transport.edges.items()},
    }


def generation(pipeline: Pipeline, image: str) -> str:
    """Ten hexadecimal digits. `image` is the one that the operator was installed with."""
    model, shared = pipeline.model, variables(pipeline)
    named, by = adapters.meaning(model), schedulers.meaning(model)
    leading, showing = controls.variables(model), ip_adapters.variables(model)
    parts = {
        "image": reference(pipeline.image, image),
        "model": [model.source, model.id, model.claim, model.sub_path],
        "variables": shared,
        # Not where there are none, or pipelines from before the field would be of another generation.
        **({"adapters": named} if named else {}),
        **({"controlNets": leading} if leading else {}),
        **({"ipAdapters": showing} if showing else {}),
        **({"schedulers": by} if by else {}),
        "devices": rdma.given(pipeline),
        # What a user puts in their place.
        "roles": {
            spec.role: own
            for spec, _ in pipeline.workers()
            if (own := list(_own(spec, {**shared, **named, **leading, **showing, **by})))
        },
    }
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def data(pipeline: Pipeline, generation: str) -> dict[str, str]:
    """Of the generation's ConfigMap."""
    return {VARIABLE: generation, **variables(pipeline)}


def config_map(pipeline: Pipeline, generation: str, data: Mapping[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": names.metadata(pipeline, names.config_map(pipeline, generation), generation=generation),
        "immutable": True,
        "data": dict(data),
    }


def _own(spec: RoleSpec, shared: dict[str, str]) -> Iterator[Any]:
    """A role's own image, and its own values of the shared variables."""
    containers = (spec.pod_template.get("spec") or {}).get("containers") or ()
    main: dict[str, Any] = next((item for item in containers if item["name"] == names.MAIN), {})
    if "image" in main:
        yield main["image"]
    for item in (*spec.env, *(main.get("env") or ())):
        if item["name"] in shared:
            yield item
