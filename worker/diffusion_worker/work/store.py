"""The artifact store as tasks see it: where input files come from and finished files go."""

from __future__ import annotations

from typing import Protocol

from diffusion_worker.model.types import Media
from diffusionpipeline.v1 import stage_pb2


class StoreRefused(Exception):
    """The artifact store did not take a file, or has none of that name; another try would not help."""


class ArtifactStore(Protocol):
    """`deadline` is on the event loop's clock. Both raise StoreRefused, or DeadlinePassed if the store was out of reach
    until then."""

    async def download(self, *, key: str, limit: int, deadline: float, task_id: str, ticket: bytes) -> bytes:
        """Fetches one file of at most `limit` bytes. Raises InvalidRequest if it is larger."""
        ...

    async def upload(
        self, *, job_id: str, task_id: str, ticket: bytes, index: int, media: Media, deadline: float
    ) -> stage_pb2.Artifact:
        """Stores one file."""
        ...
