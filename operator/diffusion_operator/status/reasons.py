"""The words of a status: types of conditions, and the reasons each may have.

Alerts and scripts match these words, so they are an interface: docs/conditions.md explains each, and a test holds that
page to the tables below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# Types of conditions.
READY: Final = "Ready"
AVAILABLE: Final = "Available"
PROGRESSING: Final = "Progressing"
RECONCILED: Final = "Reconciled"
ROUTER_READY: Final = "RouterReady"
PEERS_REGISTERED: Final = "PeersRegistered"
TRANSPORT_READY: Final = "TransportReady"
SCHEDULABLE: Final = "Schedulable"
SCALING_READY: Final = "ScalingReady"
MODEL_READY: Final = "ModelReady"
RECONCILING: Final = "Reconciling"
UPGRADE_AVAILABLE: Final = "UpgradeAvailable"
BOUND: Final = "Bound"
"""Of a role scaler."""

# What kept a reconcile from applying everything.
APPLY_FAILED: Final = "ApplyFailed"
IMMUTABLE_FIELD_CHANGED: Final = "ImmutableFieldChanged"
INVALID_SPEC: Final = "InvalidSpec"
FORBIDDEN: Final = "Forbidden"
NAME_CONFLICT: Final = "NameConflict"
FAULTS: Final = (APPLY_FAILED, IMMUTABLE_FIELD_CHANGED, INVALID_SPEC, FORBIDDEN, NAME_CONFLICT)

# Why pods are not created.
NAMESPACE_POD_SECURITY: Final = "NamespacePodSecurity"
QUOTA_EXCEEDED: Final = "QuotaExceeded"
PODS_REFUSED: Final = "PodsRefused"
REFUSALS: Final = (NAMESPACE_POD_SECURITY, QUOTA_EXCEEDED, PODS_REFUSED)

# What keeps a pod from being ready. Kubernetes' own words where it has one.
INVALID_IMAGE: Final = "InvalidImageName"
IMAGE_PULL: Final = "ImagePullBackOff"
CREATE_CONTAINER_CONFIG: Final = "CreateContainerConfigError"
CREATE_CONTAINER: Final = "CreateContainerError"
TRANSPORT_FAILED: Final = "TransportFailed"
MODEL_FAILED: Final = "ModelFailed"
DOWNLOAD_FAILED: Final = "DownloadFailed"
NO_SPACE: Final = "NoSpace"
INCOMPATIBLE: Final = "Incompatible"
OUT_OF_MEMORY: Final = "OOMKilled"
STALLED: Final = "Stalled"
"""Also a condition: something is wrong that will not mend by itself."""
CRASH_LOOP: Final = "CrashLoopBackOff"
ADMISSION: Final = "UnexpectedAdmissionError"
EVICTED: Final = "Evicted"
POD_FAILED: Final = "PodFailed"
NODE_LOST: Final = "NodeNotReady"
UNSCHEDULABLE: Final = "Unschedulable"
SCHEDULING_GATED: Final = "SchedulingGated"
NOT_READY: Final = "NotReady"
POD_PROBLEMS: Final = (
    INVALID_IMAGE,
    IMAGE_PULL,
    CREATE_CONTAINER_CONFIG,
    CREATE_CONTAINER,
    TRANSPORT_FAILED,
    MODEL_FAILED,
    DOWNLOAD_FAILED,
    NO_SPACE,
    INCOMPATIBLE,
    OUT_OF_MEMORY,
    STALLED,
    CRASH_LOOP,
    ADMISSION,
    EVICTED,
    POD_FAILED,
    NODE_LOST,
    UNSCHEDULABLE,
    SCHEDULING_GATED,
    NOT_READY,
)
"""In the order in which one is named before another: what will not mend by itself comes first."""

# Of several conditions.
SUSPENDED: Final = "Suspended"
ROLE_AT_ZERO: Final = "RoleAtZero"
IDLE: Final = "Idle"
ROUTER_NOT_READY: Final = "RouterNotReady"
ROUTER_NOT_ASKED: Final = "RouterNotAsked"
ROUTER_UNREACHABLE: Final = "RouterUnreachable"
GENERATION_MISMATCH: Final = "GenerationMismatch"

# Of one condition each.
ROLES_NOT_READY: Final = "RolesNotReady"
PEERS_NOT_REGISTERED: Final = "PeersNotRegistered"
TRANSPORT_DEGRADED: Final = "TransportDegraded"

NO_READY_ENCODER: Final = "NoReadyEncoder"
NO_READY_DENOISER: Final = "NoReadyDenoiser"
NO_READY_DECODER: Final = "NoReadyDecoder"

COMPLETE: Final = "Complete"
ROLLING_OUT: Final = "RollingOut"
SCALING: Final = "Scaling"
STARTING: Final = "Starting"
SUSPENDING: Final = "Suspending"
PAUSED: Final = "Paused"
SURGING: Final = "Surging"
PROGRESS_DEADLINE_EXCEEDED: Final = "ProgressDeadlineExceeded"

APPLIED: Final = "Applied"

REGISTRY_ANSWERS: Final = "RegistryAnswers"

REGISTERED: Final = "Registered"
NO_READY_WORKERS: Final = "NoReadyWorkers"
PEER_SUSPECT: Final = "PeerSuspect"
PEER_STALLED: Final = "PeerStalled"
PEERS_MISSING: Final = "PeersMissing"

IN_USE: Final = "InUse"
NO_PEERS: Final = "NoPeers"
FALLBACK_TO_TCP: Final = "FallbackToTCP"
MIXED_MODES: Final = "MixedModes"
PEER_UNREACHABLE: Final = "PeerUnreachable"
NO_DEVICE: Final = "NoDevice"
MEMLOCK_LIMIT: Final = "MemlockLimit"

NONE_UNSCHEDULABLE: Final = "NoneUnschedulable"
INSUFFICIENT_RESOURCE: Final = "InsufficientResource"

SCALERS_BOUND: Final = "ScalersBound"
NO_SCALERS: Final = "NoScalers"

NO_MODEL_CACHE: Final = "NoModelCache"
MODEL_FAULTS: Final = (MODEL_FAILED, DOWNLOAD_FAILED, NO_SPACE)
"""Of pods."""
LOADED: Final = "Loaded"
LOADING: Final = "Loading"

PULLED: Final = "Pulled"
PULLING: Final = "Pulling"
NO_NODES: Final = "NoNodes"

NO_FAULT: Final = "NoFault"

UP_TO_DATE: Final = "UpToDate"
NOT_COMPARED: Final = "NotCompared"
HELD: Final = "Held"
OUTSIDE_WINDOW: Final = "OutsideWindow"
BUSY: Final = "Busy"
WAITS_FOR_TURN: Final = "WaitsForTurn"
ROLLED_BACK: Final = "RolledBack"
UPGRADE_WAITS: Final = (HELD, OUTSIDE_WINDOW, NOT_READY, BUSY, WAITS_FOR_TURN, ROLLED_BACK)

FOLLOWED: Final = "Followed"
NOT_EXTERNAL: Final = "NotExternal"

PERMANENT_FAULTS: Final = (
    IMMUTABLE_FIELD_CHANGED,
    INVALID_SPEC,
    FORBIDDEN,
    NAME_CONFLICT,
    PROGRESS_DEADLINE_EXCEEDED,
    TRANSPORT_DEGRADED,
    *MODEL_FAULTS,
    NO_MODEL_CACHE,
    NO_DEVICE,
    MEMLOCK_LIMIT,
    TRANSPORT_FAILED,
    ROLLED_BACK,
)

CONDITIONS: Final[Mapping[str, tuple[str, ...]]] = {
    READY: (
        READY,
        IDLE,
        *FAULTS,
        SUSPENDED,
        ROLE_AT_ZERO,
        ROUTER_NOT_READY,
        ROLES_NOT_READY,
        PEERS_NOT_REGISTERED,
        TRANSPORT_DEGRADED,
    ),
    AVAILABLE: (
        AVAILABLE,
        SUSPENDED,
        ROLE_AT_ZERO,
        IDLE,
        ROUTER_NOT_READY,
        NO_READY_ENCODER,
        NO_READY_DENOISER,
        NO_READY_DECODER,
        GENERATION_MISMATCH,
    ),
    PROGRESSING: (
        ROLLING_OUT,
        SCALING,
        STARTING,
        SURGING,
        SUSPENDING,
        COMPLETE,
        PAUSED,
        SUSPENDED,
        PROGRESS_DEADLINE_EXCEEDED,
    ),
    RECONCILED: (APPLIED, *FAULTS),
    ROUTER_READY: (REGISTRY_ANSWERS, SUSPENDED, ROUTER_NOT_READY, ROUTER_NOT_ASKED, ROUTER_UNREACHABLE),
    PEERS_REGISTERED: (
        REGISTERED,
        INCOMPATIBLE,
        NO_READY_WORKERS,
        GENERATION_MISMATCH,
        PEER_SUSPECT,
        PEER_STALLED,
        PEERS_MISSING,
        SUSPENDED,
        ROUTER_NOT_READY,
        ROUTER_NOT_ASKED,
        ROUTER_UNREACHABLE,
    ),
    TRANSPORT_READY: (
        IN_USE,
        FALLBACK_TO_TCP,
        MIXED_MODES,
        PEER_UNREACHABLE,
        NO_DEVICE,
        MEMLOCK_LIMIT,
        TRANSPORT_FAILED,
        NO_PEERS,
        SUSPENDED,
        ROUTER_NOT_READY,
        ROUTER_NOT_ASKED,
        ROUTER_UNREACHABLE,
    ),
    SCHEDULABLE: (NONE_UNSCHEDULABLE, INSUFFICIENT_RESOURCE, UNSCHEDULABLE, SCHEDULING_GATED, *REFUSALS),
    SCALING_READY: (SCALERS_BOUND, NO_SCALERS, *FAULTS),
    MODEL_READY: (LOADED, LOADING, *MODEL_FAULTS, NO_MODEL_CACHE, SUSPENDED),
    RECONCILING: (
        ROLLING_OUT,
        SCALING,
        STARTING,
        SURGING,
        SUSPENDING,
        COMPLETE,
        PAUSED,
        SUSPENDED,
        *PERMANENT_FAULTS,
    ),
    STALLED: (*PERMANENT_FAULTS, NO_FAULT),
    UPGRADE_AVAILABLE: (*UPGRADE_WAITS, UP_TO_DATE, NOT_COMPARED),
    BOUND: (FOLLOWED, NOT_EXTERNAL, SUSPENDED),
}
"""In the order in which conditions are written."""

CACHE_FAULTS: Final = (
    *(fault for fault in FAULTS if fault != IMMUTABLE_FIELD_CHANGED),
    NO_NODES,
    *REFUSALS,
    *(reason for reason in POD_PROBLEMS if reason not in (TRANSPORT_FAILED, INCOMPATIBLE, STALLED, NOT_READY)),
)
"""What keeps a ModelCache's nodes from having it. That which mends by itself is not called Stalled."""
CACHE_PASSING: Final = (APPLY_FAILED, NODE_LOST, UNSCHEDULABLE, SCHEDULING_GATED, EVICTED)
CACHE_CONDITIONS: Final[Mapping[str, tuple[str, ...]]] = {
    READY: (PULLED, PULLING, *CACHE_FAULTS),
    RECONCILING: (PULLING, PULLED, *CACHE_FAULTS),
    STALLED: (NO_FAULT, *(reason for reason in CACHE_FAULTS if reason not in CACHE_PASSING)),
}
"""Of a ModelCache, in the order in which they are written."""
