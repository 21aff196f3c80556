"""What the router keeps: jobs in a database, files in object storage. Both outlive the process that wrote them."""

from __future__ import annotations

from diffusion_router.store.artifacts import Artifact, ArtifactNotFound, ArtifactStore, InvalidKey
from diffusion_router.store.errors import DuplicateKey, OutcomeUnknown, StoreError, StoreServed, StoreUnavailable
from diffusion_router.store.jobs import JobStore
from diffusion_router.store.records import ENDED, UNFINISHED, JobRecord

__all__ = [
    "ENDED",
    "UNFINISHED",
    "Artifact",
    "ArtifactNotFound",
    "ArtifactStore",
    "DuplicateKey",
    "InvalidKey",
    "JobRecord",
    "JobStore",
    "OutcomeUnknown",
    "StoreError",
    "StoreServed",
    "StoreUnavailable",
]
