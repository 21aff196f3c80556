"""Where pods may be placed: what the user says, and what the transport needs beside it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Final

from diffusion_operator.api import Pipeline, RoleSpec
from diffusion_operator.api.podtemplate import PREFERRED, REQUIRED
from diffusion_operator.render import names, rdma

_NODE: Final = "kubernetes.io/hostname"
# Of weights that Kubernetes knows, 1 to 100.
_MOST: Final = 100


def worker_placement(pipeline: Pipeline, spec: RoleSpec) -> dict[str, Any]:
    """Fields of the pod's spec."""
    found = placement(pipeline, spec)
    affinity: dict[str, Any] = found.get("affinity", {})
    if pipeline.transport.backend == "shm":
        # Shared memory ends at the node, so every worker must be where the others are.
        _add(affinity, "podAffinity", REQUIRED, _workers(pipeline, _NODE))
    if pipeline.topology is not None:
        # The first pod matches its own term, so that it may be anywhere. The router passes no tensors on.
        term = _workers(pipeline, pipeline.topology.key)
        if pipeline.topology.required:
            _add(affinity, "podAffinity", REQUIRED, term)
        else:
            _add(affinity, "podAffinity", PREFERRED, {"weight": _MOST, "podAffinityTerm": term})
    if pipeline.model.cache.type == "ModelCache":
        # Only to nodes that have, or are getting, what each of its process's roles loads.
        for role in pipeline.roles_of(spec):
            selector = {"matchLabels": names.cache_selector(pipeline.model.cache.name, role)}
            _add(affinity, "podAffinity", REQUIRED, {"topologyKey": _NODE, "labelSelector": selector})
    if rdma.on_host_network(pipeline):
        # On one node two workers would listen on the same ports.
        _add(affinity, "podAntiAffinity", REQUIRED, _workers(pipeline, _NODE))
        found |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    if affinity:
        found["affinity"] = affinity
    return found


def placement(pipeline: Pipeline, spec: RoleSpec) -> dict[str, Any]:
    found = deepcopy(dict(spec.scheduling))
    if spec.affinity:
        found["affinity"] = deepcopy(dict(spec.affinity))
    if spec.spread:
        found["topologySpreadConstraints"] = [
            {"maxSkew": 1, **constraint, "labelSelector": {"matchLabels": names.selector(pipeline, spec.role)}}
            for constraint in spec.spread
        ]
    return found


def _workers(pipeline: Pipeline, key: str) -> dict[str, Any]:
    """The term of an affinity: where this pipeline's workers are, of both tracks."""
    return {"topologyKey": key, "labelSelector": names.workers(pipeline)}


def _add(affinity: dict[str, Any], kind: str, when: str, term: dict[str, Any]) -> None:
    part = affinity.get(kind) or {}
    affinity[kind] = {**part, when: [*(part.get(when) or ()), term]}
