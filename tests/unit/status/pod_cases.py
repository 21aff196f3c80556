"""Cases of Schedulable, ScalingReady and ModelReady."""

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
    SUSPENDED,
    at_zero,
    case,
    fault,
    loading,
    observed,
    problem,
    refused,
    unready,
)

SCHEDULABLE = [
    case(observed(), "Schedulable", "True", "NoneUnschedulable", "no pod waits for a node", id="none waits"),
    case(
        observed(denoiser=unready(3, 1, NO_HCA, NO_HCA_2)),
        "Schedulable",
        "False",
        "InsufficientResource",
        "denoiser: 2 pods Unschedulable: 0/5 nodes are available: 5 Insufficient rdma/hca",
        id="too few of a resource",
    ),
    case(
        observed(denoiser=unready(1, 0, NO_HCA), rdma_resources=("rdma/shared_a", "nvidia.com/roce")),
        "Schedulable",
        "False",
        "InsufficientResource",
        "5 Insufficient rdma/hca; no node offers rdma/hca, they offer nvidia.com/roce and rdma/shared_a: mend "
        "spec.transport.rdma.resourceName",
        spec=RDMA,
        id="the resource that is named exists nowhere, others do",
    ),
    case(
        observed(denoiser=unready(1, 0, NO_HCA), rdma_resources=()),
        "Schedulable",
        "False",
        "InsufficientResource",
        "no node offers rdma/hca or any other RDMA resource: is the RDMA device plugin installed?",
        spec=RDMA,
        id="no node has any RDMA resource",
    ),
    case(
        observed(denoiser=unready(1, 0, problem("Unschedulable", "1 node(s) had untolerated taint(s)"))),
        "Schedulable",
        "False",
        "Unschedulable",
        "denoiser: 1 pod Unschedulable: 1 node(s) had untolerated taint(s)",
        id="nodes that may not be used",
    ),
    case(
        observed(denoiser=unready(1, 0, problem("SchedulingGated", "waits until its gates are lifted"))),
        "Schedulable",
        "False",
        "SchedulingGated",
        "denoiser: 1 pod SchedulingGated: waits until its gates are lifted",
        id="held back on purpose",
    ),
    case(
        observed(denoiser=refused("NamespacePodSecurity", 'violates PodSecurity "baseline:latest"')),
        "Schedulable",
        "False",
        "NamespacePodSecurity",
        'denoiser: 1 pod refused, NamespacePodSecurity: violates PodSecurity "baseline:latest": have the namespace\'s '
        "label pod-security.kubernetes.io/enforce allow it",
        id="the namespace's PodSecurity level refuses pods",
    ),
    case(
        observed(denoiser=refused("QuotaExceeded", "exceeded quota: gpus")),
        "Schedulable",
        "False",
        "QuotaExceeded",
        "denoiser: 1 pod refused, QuotaExceeded: exceeded quota: gpus: raise the namespace's ResourceQuota",
        id="the namespace's quota refuses pods",
    ),
    case(
        observed(denoiser=refused("PodsRefused", "a webhook says no")),
        "Schedulable",
        "False",
        "PodsRefused",
        "denoiser: 1 pod refused, PodsRefused: a webhook says no",
        id="somebody else refuses pods",
    ),
]

SCALING = [
    case(observed(), "ScalingReady", "True", "NoScalers", "no role has scaling.mode External", id="nobody else scales"),
    case(
        observed(),
        "ScalingReady",
        "True",
        "ScalersBound",
        "denoiser follows digits-denoiser",
        spec=EXTERNAL,
        id="a role has its scaler",
    ),
    *(
        case(
            observed(scaling_faults=(fault(reason),)),
            "ScalingReady",
            "False",
            reason,
            f"StatefulSet digits-denoiser: {reason}",
            spec=EXTERNAL,
            id=f"a scaler: {reason}",
        )
        for reason in get_args(FaultReason)
    ),
]

MODEL = [
    case(observed(), "ModelReady", "True", "Loaded", "every role", id="all roles have it"),
    case(
        observed(denoiser=unready(1, 0)),
        "ModelReady",
        "Unknown",
        "Loading",
        "no denoiser has loaded the model yet",
        id="a role has not loaded it yet",
    ),
    case(
        observed(
            encoder=unready(1, 0),
            denoiser=unready(3, 0),
            peers=loading(
                ("digits-denoiser-1", Role.DENOISER, 41),
                ("digits-denoiser-0", Role.DENOISER, 66),
                ("digits-denoiser-2", Role.DENOISER, 1, OLD),
                ("digits-decoder-0", Role.DECODER, 5),
            ),
        ),
        "ModelReady",
        "Unknown",
        "Loading",
        "no encoder or denoiser has loaded the model yet: denoiser at 41 %, 3.2 of 7.8 GiB (digits-denoiser-1)",
        id="how far a role's download is, by the pod that is behind",
    ),
    case(
        observed(denoiser=unready(1, 0, problem("ModelFailed", "model.id: there is no folder /models/x"))),
        "ModelReady",
        "False",
        "ModelFailed",
        "denoiser: 1 pod ModelFailed (digits-denoiser-0): model.id: there is no folder /models/x",
        id="it can't be loaded",
    ),
    case(
        observed(denoiser=unready(1, 0, problem("DownloadFailed", "404 Client Error"))),
        "ModelReady",
        "False",
        "DownloadFailed",
        "404 Client Error",
        id="it can't be downloaded",
    ),
    case(
        observed(denoiser=unready(1, 0, problem("NoSpace", "No space left on device"))),
        "ModelReady",
        "False",
        "NoSpace",
        "No space left on device",
        id="its volume is too small",
    ),
    case(
        observed(denoiser=unready(1, 0), cache_fault="there is no ModelCache sd3"),
        "ModelReady",
        "False",
        "NoModelCache",
        "there is no ModelCache sd3",
        id="nobody fills what it is to start from",
    ),
    case(
        observed(cache_fault="there is no ModelCache sd3"),
        "ModelReady",
        "True",
        "Loaded",
        "",
        id="those that run need the cache no more",
    ),
    case(at_zero(), "ModelReady", "Unknown", "Suspended", "", spec=SUSPENDED, id="suspended"),
]

CASES = [*SCHEDULABLE, *SCALING, *MODEL]
