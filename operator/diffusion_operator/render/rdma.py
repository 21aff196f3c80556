"""RDMA in worker pods: the device plugin's resource, locked memory, networks, and what the worker is told of devices.

Only what the resource says is rendered: what a cluster calls its devices is free text that nobody can guess, so without
`transport.rdma` there are none, and protocol auto finds TCP.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from diffusion_operator.api import Pipeline, Role
from diffusion_operator.api.transport import Rdma

NETWORKS_ANNOTATION: Final = "k8s.v1.cni.cncf.io/networks"
CLAIM: Final = "rdma"
"""What a pod calls its claim of devices."""


def given(pipeline: Pipeline) -> bool:
    """Whether worker pods can be expected to see RDMA devices."""
    rdma = pipeline.transport.rdma
    return rdma is not None and rdma.given


def resources(pipeline: Pipeline, roles: Sequence[Role]) -> dict[str, str]:
    """Extended resources of a worker of these roles."""
    rdma = _used(pipeline, roles)
    return {name: str(rdma.count) for name in rdma.resources} if rdma else {}


def claims(pipeline: Pipeline, roles: Sequence[Role]) -> list[dict[str, Any]]:
    """Of such a worker's pod, unless its role has one of the same name."""
    rdma = _used(pipeline, roles)
    if rdma is None or not rdma.claim_template:
        return []
    return [{"name": CLAIM, "resourceClaimTemplateName": rdma.claim_template}]


def environment(pipeline: Pipeline) -> dict[str, str]:
    rdma = pipeline.transport.rdma
    found = {}
    if rdma and rdma.devices:
        found["DIFFUSION_WORKER_RDMA_DEVICES"] = ",".join(rdma.devices)
    if rdma and rdma.gid_index is not None:
        # Mooncake's own variable: a worker hands its environment on to its engines.
        found["MC_GID_INDEX"] = str(rdma.gid_index)
    return found


def pod_annotations(pipeline: Pipeline, roles: Sequence[Role]) -> dict[str, str]:
    rdma = _used(pipeline, roles)
    if rdma and rdma.network_selections:
        return {NETWORKS_ANNOTATION: json.dumps(rdma.network_selections, separators=(",", ":"))}
    return {NETWORKS_ANNOTATION: ",".join(rdma.networks)} if rdma and rdma.networks else {}


def locks_memory(pipeline: Pipeline, roles: Sequence[Role]) -> bool:
    """Whether such a worker gets the capability to register more memory than the runtime's limit on locked memory."""
    rdma = pipeline.transport.rdma
    if rdma is None or rdma.ipc_lock == "Never":
        return False
    return rdma.ipc_lock == "Always" or (rdma.given and _used(pipeline, roles) is not None)


def security_context() -> dict[str, Any]:
    """For the container of a worker that locks memory.

    It runs as root: container runtimes give an added capability to no other user, since they set no ambient ones and
    the kernel drops it when the container's program is executed. It has no capability but this one.
    """
    return {
        "runAsUser": 0,
        "runAsGroup": 0,
        "runAsNonRoot": False,
        "capabilities": {"add": ["IPC_LOCK"], "drop": ["ALL"]},
    }


def _used(pipeline: Pipeline, roles: Sequence[Role]) -> Rdma | None:
    """None: no edge of these roles may be RDMA."""
    return pipeline.transport.rdma if pipeline.transport.may_use_rdma(roles) else None


def on_host_network(pipeline: Pipeline) -> bool:
    rdma = pipeline.transport.rdma
    return rdma is not None and rdma.host_network
