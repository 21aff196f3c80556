"""The generation: what two workers must have in common to exchange tensors.

A generation is the hash of the pod template, and peers of different generations never exchange tensors. Roles have
different templates (devices, threads, arguments), yet must work together, and a change of one role's threads must not
part it from the others. So there is one generation a pipeline: the hash over the parts of the worker pods' templates
that decide what a tensor means and how it travels: image, model, revision, dtype and transport. All worker roles of
one revision of the resource carry the same value, in a label and in DIFFUSION_WORKER_GENERATION.
"""

import hashlib
import json

from diffusion_operator.api import Pipeline


def generation(pipeline: Pipeline, image: str) -> str:
    """Ten hexadecimal digits."""
    model, transport = pipeline.model, pipeline.transport
    parts = {
        "image": image,
        "model": [model.source, model.id, model.revision, model.dtype, model.allow_pickle],
        "transport": [transport.backend, transport.protocol, transport.fallback],
    }
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]
