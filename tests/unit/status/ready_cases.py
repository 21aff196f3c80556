"""Cases of Ready, Available and Reconciled."""

from __future__ import annotations

from typing import get_args

from diffusion_operator.api import Role
from diffusion_operator.status.observed import FaultReason
from unit.status.seen import (
    EXTERNAL,
    NO_HCA,
    NO_HCA_2,
    OLD,
    RDMA,
    RDMA_OR_NOTHING,
    SUSPENDED,
    UNREACHABLE,
    answer,
    at_zero,
    case,
    fault,
    observed,
    one_of_each,
    peer,
    problem,
    role,
    unready,
)

READY = [
    case(observed(), "Ready", "True", "Ready", "all roles are ready", id="everything is there"),
    case(
        observed(denoiser=unready(3, 1, NO_HCA, NO_HCA_2)),
        "Ready",
        "False",
        "RolesNotReady",
        "denoiser 1 of 3 ready: 2 pods Unschedulable: 0/5 nodes are available: 5 Insufficient rdma/hca",
        id="pods find no node",
    ),
    case(
        observed(
            encoder=unready(1, 0), denoiser=unready(2, 0, problem("OOMKilled", "too large")), decoder=unready(1, 0)
        ),
        "Ready",
        "False",
        "RolesNotReady",
        "denoiser 0 of 2 ready: 1 pod OOMKilled (digits-denoiser-0): too large; also encoder 0 of 1 ready and decoder "
        "0 of 1 ready",
        id="a role that fails is told of before those that merely start",
    ),
    case(
        observed(denoiser=role(3, updated=1, update_revision="r2")),
        "Ready",
        "False",
        "RolesNotReady",
        "denoiser 3 of 3 ready: 2 pods not updated yet",
        id="ready, but not of the latest template",
    ),
    case(
        observed(denoiser=role(observed=False)),
        "Ready",
        "False",
        "RolesNotReady",
        "denoiser 1 of 1 ready: the StatefulSet controller has not seen the latest change yet",
        id="counts that speak of an older spec prove nothing",
    ),
    case(
        observed(router=unready(1, 0, problem("ImagePullBackOff", "no such image", pod="digits-router-0"))),
        "Ready",
        "False",
        "RouterNotReady",
        "router 0 of 1 ready: 1 pod ImagePullBackOff (digits-router-0): no such image",
        id="the router is the first cause",
    ),
    case(
        observed(
            router=unready(1, 0),
            denoiser=unready(1, 0, problem("TransportFailed", "no RDMA device", pod="digits-denoiser-0")),
        ),
        "Ready",
        "False",
        "RolesNotReady",
        "denoiser 0 of 1 ready: 1 pod TransportFailed (digits-denoiser-0): no RDMA device; also router 0 of 1 ready",
        id="a router that only starts is not the cause where a worker fails",
    ),
    case(
        observed(
            router=unready(1, 0, problem("NotReady", "its readiness probe fails", pod="digits-router-0")),
            denoiser=unready(1, 0, problem("OOMKilled", "main was killed", pod="digits-denoiser-0")),
        ),
        "Ready",
        "False",
        "RouterNotReady",
        "router 0 of 1 ready: 1 pod NotReady (digits-router-0): its readiness probe fails",
        id="a router that no longer answers comes before its workers",
    ),
    case(
        observed(router=unready(1, 0, problem("NotReady", "its readiness probe fails", pod="digits-router-0"))),
        "Ready",
        "False",
        "RouterNotReady",
        "its readiness probe fails",
        id="a router that no longer answers",
    ),
    case(
        observed(denoiser=role(0)),
        "Ready",
        "False",
        "RoleAtZero",
        "denoiser at zero replicas, so nothing can be generated: raise spec.roles.denoiser.replicas",
        id="a role that is scaled to zero",
    ),
    case(
        observed(encoder=role(0)),
        "Ready",
        "False",
        "RoleAtZero",
        "encoder at zero replicas, so nothing can be generated but from prompts that were encoded before and are kept: "
        "raise spec.roles.encoder.replicas",
        id="no encoder, whose work may be kept",
    ),
    case(
        observed(denoiser=role(0)),
        "Ready",
        "True",
        "Idle",
        "denoiser at zero replicas as digits-denoiser says: jobs are taken and wait until there are pods",
        spec=EXTERNAL,
        id="a role that its scaler sets to zero",
    ),
    case(
        observed(denoiser=role(0), decoder=unready(1, 0)),
        "Ready",
        "False",
        "RolesNotReady",
        "decoder 0 of 1 ready",
        spec=EXTERNAL,
        id="one at zero and another that is not ready",
    ),
    case(
        observed(denoiser=role(0), decoder=role(0)),
        "Ready",
        "False",
        "RoleAtZero",
        "raise spec.roles.decoder.replicas",
        spec=EXTERNAL,
        id="one at zero by its scaler and one by its owner",
    ),
    case(at_zero(), "Ready", "False", "Suspended", "spec.suspend is true", spec=SUSPENDED, id="suspended"),
    case(
        observed(peers=answer(one_of_each()[:2])),
        "Ready",
        "False",
        "PeersNotRegistered",
        "decoder: 0 of 1 ready pod registered",
        id="a pod is ready by Kubernetes, and unknown to the router",
    ),
    case(
        observed(peers=UNREACHABLE),
        "Ready",
        "True",
        "Ready",
        "all roles are ready",
        id="not knowing the peers is no fault",
    ),
    case(
        observed(),
        "Ready",
        "False",
        "TransportDegraded",
        "peers use tcp, not rdma",
        spec=RDMA_OR_NOTHING,
        id="TCP where it is forbidden",
    ),
    case(
        observed(),
        "Ready",
        "True",
        "Ready",
        "all roles are ready; peers use tcp, not rdma",
        spec=RDMA,
        id="TCP is allowed",
    ),
    case(
        observed(peers=answer([*one_of_each()[:2], peer(Role.DECODER, mode="mooncake-rdma")])),
        "Ready",
        "False",
        "TransportDegraded",
        "can't exchange tensors: encoder tcp; denoiser tcp; decoder rdma",
        id="peers that can't reach each other",
    ),
    *(
        case(
            observed(fault=fault(reason)), "Ready", "False", reason, f"StatefulSet digits-denoiser: {reason}", id=reason
        )
        for reason in get_args(FaultReason)
    ),
]

AVAILABLE = [
    case(
        observed(denoiser=unready(3, 1)), "Available", "True", "Available", "every role", id="one pod of each is enough"
    ),
    case(
        observed(encoder=unready(1, 0)), "Available", "False", "NoReadyEncoder", "no encoder is ready", id="no encoder"
    ),
    case(observed(denoiser=unready(1, 0)), "Available", "False", "NoReadyDenoiser", "no denoiser", id="no denoiser"),
    case(observed(decoder=unready(1, 0)), "Available", "False", "NoReadyDecoder", "no decoder", id="no decoder"),
    case(
        observed(peers=answer([*one_of_each()[:2], peer(Role.DECODER, state="draining")])),
        "Available",
        "False",
        "NoReadyDecoder",
        "no decoder that is ready is registered with the router",
        id="its only peer is draining",
    ),
    case(
        observed(peers=answer([*one_of_each()[:2], peer(Role.DECODER, generation=OLD)])),
        "Available",
        "False",
        "GenerationMismatch",
        "no generation has a ready peer of every role: encoder aaaaaaaaaa; denoiser aaaaaaaaaa; decoder 0000000000",
        id="one of each, but of different generations",
    ),
    case(observed(router=unready(1, 0)), "Available", "False", "RouterNotReady", "no router is ready", id="no router"),
    case(
        observed(decoder=role(0)), "Available", "False", "RoleAtZero", "decoder at zero replicas", id="a role at zero"
    ),
    case(observed(denoiser=role(0)), "Available", "False", "Idle", "jobs are taken", spec=EXTERNAL, id="idle"),
    case(at_zero(), "Available", "False", "Suspended", "spec.suspend is true", spec=SUSPENDED, id="suspended"),
]

RECONCILED = [
    case(observed(), "Reconciled", "True", "Applied", "everything is applied", id="all was applied"),
    case(
        observed(notes=("PodMonitor: this cluster has no monitoring.coreos.com/v1",)),
        "Reconciled",
        "True",
        "Applied",
        "everything is applied; PodMonitor: this cluster has no monitoring.coreos.com/v1",
        id="what was left out is told",
    ),
    *(
        case(
            observed(fault=fault(reason)),
            "Reconciled",
            "False",
            reason,
            f"StatefulSet digits-denoiser: {reason}",
            id=reason,
        )
        for reason in get_args(FaultReason)
    ),
]

CASES = [*READY, *AVAILABLE, *RECONCILED]
