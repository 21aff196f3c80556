"""The gRPC twin of the HTTP API, and the way of files from workers to the artifact store and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, NoReturn, Protocol

import grpc
import structlog

from diffusion_router.api.errors import ApiError, not_found, translate
from diffusion_router.api.fields import InvalidField
from diffusion_router.api.kinds import JOB
from diffusion_router.api.limits import Limits
from diffusion_router.api.schedulers import check_scheduler
from diffusion_router.api.submission import settle_adapters, settle_output
from diffusion_router.api.validation import RequestReader
from diffusion_router.peers.registry import Registry
from diffusion_router.service import JobService
from diffusionpipeline.v1 import job_pb2, job_pb2_grpc

# Of an answer that waits for no model.
_UNARY_SECONDS: Final = 60.0
_CHUNK_SECONDS: Final = 60.0
_CHUNK_BYTES: Final = 1 << 20
# Up to here a file is put at once, which costs a fraction of a streamed upload.
_WHOLE_BYTES: Final = 8 << 20
_MAX_LISTED: Final = 1000

_CODES: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.ALREADY_EXISTS,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

log = structlog.get_logger()


class Access(Protocol):
    """Whose files are whose."""

    def may_put(self, header: job_pb2.UploadRequest.Header) -> bool: ...

    def may_put_soon(self, header: job_pb2.UploadRequest.Header) -> bool:
        """Not now, but when its worker has registered."""

    def may_read(self, request: job_pb2.DownloadRequest) -> bool: ...


def add_services(
    server: grpc.aio.Server, service: JobService, registry: Registry, limits: Limits, access: Access
) -> None:
    """Register JobService and ArtifactService."""
    job_pb2_grpc.add_JobServiceServicer_to_server(Generation(service, registry, limits), server)
    artifacts = Artifacts(service, access, limits.max_artifact_bytes)
    job_pb2_grpc.add_ArtifactServiceServicer_to_server(artifacts, server)


class Generation(job_pb2_grpc.JobServiceServicer):
    """Errors carry `code`, and where there is one `field` and `retry-after`, as trailing metadata."""

    def __init__(self, service: JobService, registry: Registry, limits: Limits) -> None:
        self._service = service
        self._registry = registry
        self._reader = RequestReader(limits)

    async def CreateJob(  # noqa: N802
        self,
        request: job_pb2.CreateJobRequest,
        context: grpc.aio.ServicerContext[job_pb2.CreateJobRequest, job_pb2.CreateJobResponse],
    ) -> job_pb2.CreateJobResponse:
        try:
            async with asyncio.timeout(_UNARY_SECONDS):
                return job_pb2.CreateJobResponse(job=await self._create(request))
        except Exception as error:
            await _abort(context, error)

    async def _create(self, request: job_pb2.CreateJobRequest) -> job_pb2.Job:
        generation = settle_adapters(self._registry, self._reader.read_message(request))
        check_scheduler(self._registry, generation)
        model = settle_output(self._registry, generation, JOB)
        jobs = await self._service.submit(
            generation.jobs(), generation.terms, model=model, idempotency_key=request.idempotency_key or None
        )
        return jobs[0]

    async def GetJob(  # noqa: N802
        self,
        request: job_pb2.GetJobRequest,
        context: grpc.aio.ServicerContext[job_pb2.GetJobRequest, job_pb2.GetJobResponse],
    ) -> job_pb2.GetJobResponse:
        try:
            return job_pb2.GetJobResponse(job=await self._find(request.id))
        except Exception as error:
            await _abort(context, error)

    async def WatchJob(  # noqa: N802
        self,
        request: job_pb2.WatchJobRequest,
        context: grpc.aio.ServicerContext[job_pb2.WatchJobRequest, job_pb2.WatchJobResponse],
    ) -> AsyncIterator[job_pb2.WatchJobResponse]:
        try:
            await self._find(request.id)
            async for job in self._service.watch(request.id):
                yield job_pb2.WatchJobResponse(job=job)
        except Exception as error:
            await _abort(context, error)

    async def CancelJob(  # noqa: N802
        self,
        request: job_pb2.CancelJobRequest,
        context: grpc.aio.ServicerContext[job_pb2.CancelJobRequest, job_pb2.CancelJobResponse],
    ) -> job_pb2.CancelJobResponse:
        try:
            async with asyncio.timeout(_UNARY_SECONDS):
                job = await self._service.cancel(request.id)
            if job is None:
                raise not_found("Job", request.id)
            return job_pb2.CancelJobResponse(job=job)
        except Exception as error:
            await _abort(context, error)

    async def ListJobs(  # noqa: N802
        self,
        request: job_pb2.ListJobsRequest,
        context: grpc.aio.ServicerContext[job_pb2.ListJobsRequest, job_pb2.ListJobsResponse],
    ) -> job_pb2.ListJobsResponse:
        try:
            jobs = await self._service.list(request.status or None, min(request.limit or 100, _MAX_LISTED))
            return job_pb2.ListJobsResponse(jobs=jobs)
        except Exception as error:
            await _abort(context, error)

    async def _find(self, job_id: str) -> job_pb2.Job:
        job = await self._service.find(job_id)
        if job is None:
            raise not_found("Job", job_id)
        return job


class Artifacts(job_pb2_grpc.ArtifactServiceServicer):
    """Takes a file only from the task that its job is at, and gives what clients sent to tasks that read it."""

    def __init__(self, service: JobService, access: Access, max_bytes: int) -> None:
        self._service = service
        self._access = access
        self._max_bytes = max_bytes

    async def Upload(  # noqa: N802
        self,
        request_iterator: AsyncIterator[job_pb2.UploadRequest],
        context: grpc.aio.ServicerContext[job_pb2.UploadRequest, job_pb2.UploadResponse],
    ) -> job_pb2.UploadResponse:
        try:
            return job_pb2.UploadResponse(key=await self._receive(aiter(request_iterator)))
        except Exception as error:
            await _abort(context, error)

    async def _receive(self, requests: AsyncIterator[job_pb2.UploadRequest]) -> str:
        first = await _next(requests)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidField("header", "The first message of an upload must be its header")
        header = first.header
        self._check_task(header)
        if header.size > self._max_bytes:
            text = f"{header.name} has {header.size} bytes; at most {self._max_bytes} are allowed"
            raise ApiError(413, text, code="artifact_too_large")
        key = f"jobs/{header.job_id}/{header.name}"
        chunks = self._chunks(header, requests)
        if header.size <= _WHOLE_BYTES:
            await self._service.artifacts.put(key, b"".join([chunk async for chunk in chunks]))
        else:
            await self._service.artifacts.put(key, chunks, header.size)
        return key

    async def _chunks(
        self, header: job_pb2.UploadRequest.Header, requests: AsyncIterator[job_pb2.UploadRequest]
    ) -> AsyncIterator[bytes]:
        """Raises rather than ends where the file is not what was announced, so that nothing is kept of it."""
        size = 0
        while (request := await _next(requests)) is not None:
            if request.WhichOneof("part") != "chunk":
                raise InvalidField("chunk", "After its header, an upload has chunks only")
            size += len(request.chunk)
            if size > header.size:
                raise InvalidField("size", f"{header.name} has more than the {header.size} bytes announced")
            yield request.chunk
        if size != header.size:
            raise InvalidField("size", f"{header.name} has {size} bytes where {header.size} were announced")
        # It may have been given to another worker in the meantime.
        self._check_task(header)

    def _check_task(self, header: job_pb2.UploadRequest.Header) -> None:
        if not self._access.may_put(header):
            if self._access.may_put_soon(header):
                text = f"The worker of task {header.task_id!r} has not registered yet: send the file again"
                raise ApiError(503, text, code="not_registered", headers={"Retry-After": "1"})
            text = (
                f"Task {header.task_id!r} is not what job {header.job_id!r} is at, or its ticket is wrong: its file is "
                "not wanted"
            )
            raise ApiError(404, text, code="task_not_current", param="task_id")

    async def Download(  # noqa: N802
        self,
        request: job_pb2.DownloadRequest,
        context: grpc.aio.ServicerContext[job_pb2.DownloadRequest, job_pb2.DownloadResponse],
    ) -> AsyncIterator[job_pb2.DownloadResponse]:
        try:
            if not self._access.may_read(request):
                raise not_found("File", request.key)
            async for chunk in await self._service.artifacts.get(request.key):
                view = memoryview(chunk)
                for start in range(0, len(view), _CHUNK_BYTES):
                    yield job_pb2.DownloadResponse(chunk=bytes(view[start : start + _CHUNK_BYTES]))
        except Exception as error:
            await _abort(context, error)


async def _next(requests: AsyncIterator[job_pb2.UploadRequest]) -> job_pb2.UploadRequest | None:
    async with asyncio.timeout(_CHUNK_SECONDS):
        return await anext(requests, None)


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> NoReturn:
    """End the call as HTTP would: same reason, same words. `abort` itself ends a call by an exception that passes."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    answer = translate(error)
    if answer is None:
        log.error("call_failed", exc_info=error)
        answer = ApiError(500, "The router failed on this call", code="internal_error")
    trailer = [("code", answer.code)]
    if answer.param is not None and answer.param.isascii() and answer.param.isprintable():
        trailer.append(("field", answer.param))
    if answer.headers and "Retry-After" in answer.headers:
        trailer.append(("retry-after", answer.headers["Retry-After"]))
    code = _CODES.get(answer.status, grpc.StatusCode.INTERNAL)
    await context.abort(code, answer.message, tuple(trailer))
    raise AssertionError("abort raises")
