"""Files to and from the artifact store, through the router, which alone knows where the store is.

The router may be away for a while (it restarts, its node drains): a finished picture is worth waiting for, so calls
are tried again until the job's deadline.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, TypeVar

import grpc
import structlog

from diffusion_worker.model.types import InvalidRequest, Media
from diffusion_worker.work.store import StoreRefused
from diffusion_worker.work.tasks import DeadlinePassed
from diffusionpipeline.v1 import job_pb2, job_pb2_grpc, stage_pb2

CHUNK_BYTES: Final = 1 << 20
EXTENSIONS: Final = {"image/png": "png", "image/webp": "webp", "image/jpeg": "jpg", "video/mp4": "mp4"}

# One try: fixed costs, and the slowest network worth waiting for.
_CALL_SECONDS: Final = 10.0
_SLOWEST_BYTES_PER_SECOND: Final = 1 << 20
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0
_WORTH_A_RETRY: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)

T = TypeVar("T")

log = structlog.get_logger()


class Artifacts:
    """Over the channel that the worker's stream to the router uses as well."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = job_pb2_grpc.ArtifactServiceStub(channel)

    async def upload(
        self, *, job_id: str, task_id: str, ticket: bytes, index: int, media: Media, deadline: float
    ) -> stage_pb2.Artifact:
        """Stores one file. `deadline` is on the event loop's clock.

        Raises StoreRefused, or DeadlinePassed when the router was away until the deadline.
        """
        header = job_pb2.UploadRequest.Header(
            job_id=job_id,
            task_id=task_id,
            name=f"{index}.{EXTENSIONS.get(media.media_type, 'bin')}",
            media_type=media.media_type,
            size=len(media.data),
            ticket=ticket,
        )

        async def call(timeout: float) -> str:
            response = await self._stub.Upload(_parts(header, media.data), timeout=timeout)
            return response.key

        key = await _persist(call, len(media.data), deadline, task_id)
        return stage_pb2.Artifact(
            key=key,
            media_type=media.media_type,
            size=len(media.data),
            width=media.width,
            height=media.height,
            num_frames=media.num_frames,
        )

    async def download(self, *, key: str, limit: int, deadline: float, task_id: str, ticket: bytes) -> bytes:
        """Fetches one file of at most `limit` bytes.

        Raises InvalidRequest if it is larger, StoreRefused, DeadlinePassed.
        """

        request = job_pb2.DownloadRequest(key=key, task_id=task_id, ticket=ticket)

        async def call(timeout: float) -> bytes:
            data = bytearray()
            async for part in self._stub.Download(request, timeout=timeout):
                data += part.chunk
                if len(data) > limit:
                    raise InvalidRequest(f"inputs: the files are larger than {limit} bytes, this worker's limit")
            return bytes(data)

        return await _persist(call, limit, deadline, task_id)


def _parts(header: job_pb2.UploadRequest.Header, data: bytes) -> Iterator[job_pb2.UploadRequest]:
    yield job_pb2.UploadRequest(header=header)
    for start in range(0, len(data), CHUNK_BYTES):
        yield job_pb2.UploadRequest(chunk=data[start : start + CHUNK_BYTES])


async def _persist(call: Callable[[float], Awaitable[T]], nbytes: int, deadline: float, task_id: str) -> T:
    loop = asyncio.get_running_loop()
    patience = _CALL_SECONDS + nbytes / _SLOWEST_BYTES_PER_SECOND
    pause = _FIRST_PAUSE
    while True:
        left = deadline - loop.time()
        if left <= 0:
            raise DeadlinePassed("the artifact store could not be reached before the job's deadline")
        try:
            return await call(min(left, patience))
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details() or ""
        if code not in _WORTH_A_RETRY:
            raise StoreRefused(f"{code.name.lower()}: {details}")
        log.warning("artifact_call_failed", task_id=task_id, code=code.name, details=details)
        await asyncio.sleep(min(pause * random.uniform(0.5, 1.0), max(0.0, deadline - loop.time())))
        pause = min(2 * pause, _LONGEST_PAUSE)
