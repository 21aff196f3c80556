"""Where pods may be placed: what the user says, and what the transport needs beside it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from diffusion_operator.api import Pipeline, RoleSpec
from diffusion_operator.api.podtemplate import REQUIRED
from diffusion_operator.render import names, rdma


def worker_placement(pipeline: Pipeline, spec: RoleSpec) -> dict[str, Any]:
    """Fields of the pod's spec."""
    found = placement(pipeline, spec)
    affinity: dict[str, Any] = found.get("affinity", {})
    if pipeline.transport.backend == "shm":
        # Shared memory ends at the node, so every worker must be where the others are.
        _require(affinity, "podAffinity", names.workers(pipeline))
    if pipeline.model.cache.type == "ModelCache":
        # Only to nodes that have, or are getting, what each of its process's roles loads.
        for role in pipeline.roles_of(spec):
            selector = {"matchLabels": names.cache_selector(pipeline.model.cache.name, role)}
            _require(affinity, "podAffinity", selector)
    if rdma.on_host_network(pipeline):
        # On one node two workers would listen on the same ports.
        _require(affinity, "podAntiAffinity", names.workers(pipeline))
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


def _require(affinity: dict[str, Any], kind: str, pods: dict[str, Any]) -> None:
    """On a node with (podAffinity), or without, a pod that the selector `pods` selects."""
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": pods}
    part = affinity.get(kind) or {}
    affinity[kind] = {**part, REQUIRED: [*(part.get(REQUIRED) or ()), term]}
