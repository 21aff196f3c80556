"""`/v1/jobs`: any generation, asynchronously, with its stages and their times."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from diffusion_router.api.documents import errors, json_or_form_body
from diffusion_router.api.errors import ApiError
from diffusion_router.api.events import job_events
from diffusion_router.api.kinds import JOB
from diffusion_router.api.objects import JobDeleted, JobList, JobObject, Status, has_ended, job_object
from diffusion_router.api.responses import respond
from diffusion_router.api.submission import Api
from diffusionpipeline.v1 import job_pb2
from diffusionpipeline.words import number

# A step may take long; the client need not wait for the end of it.
_CANCEL_SECONDS: Final = 10.0


def job_routes(api: Api) -> APIRouter:
    routes = APIRouter(tags=["jobs"])

    @routes.post(
        "/v1/jobs",
        operation_id="create_jobs",
        summary="Any generation; answers once its jobs are written down",
        status_code=202,
        responses={202: {"model": JobList}, **errors(400, 404, 408, 413, 415, 422, 429, 503)},
        openapi_extra=json_or_form_body(api.reader.schema(JOB), JOB),
    )
    async def create(request: Request) -> Response:
        submitted = await api.submit(request, JOB)
        return respond(_list(api, request, submitted.jobs), 202)

    @routes.get(
        "/v1/jobs",
        operation_id="list_jobs",
        summary="The newest jobs first",
        responses={200: {"model": JobList}, **errors(400, 503)},
    )
    async def list_jobs(
        request: Request, status: Status | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> Response:
        wanted = None if status is None else number(job_pb2.JobStatus, status)
        return respond(_list(api, request, await api.service.list(wanted, limit)))

    @routes.get(
        "/v1/jobs/{job_id}",
        operation_id="get_job",
        summary="How far a job is, and where its time went",
        responses={200: {"model": JobObject}, **errors(404, 503)},
    )
    async def get(request: Request, job_id: str) -> Response:
        return respond(_object(api, request, await api.job(job_id)))

    @routes.get(
        "/v1/jobs/{job_id}/events",
        operation_id="watch_job",
        summary="Server-sent events: queue, stage, step; at last end",
        response_class=Response,
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}, **errors(404, 503)},
    )
    async def events(request: Request, job_id: str) -> Response:
        await api.job(job_id)
        return StreamingResponse(
            job_events(api.service.watch(job_id), lambda job: _object(api, request, job)),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    @routes.delete(
        "/v1/jobs/{job_id}",
        operation_id="delete_job",
        summary="Cancel a job that has not ended; forget one that has",
        responses={200: {"model": JobObject | JobDeleted}, **errors(404, 503, 504)},
    )
    async def delete(request: Request, job_id: str) -> Response:
        ended = await cancel_or_delete(api, await api.job(job_id))
        return respond(JobDeleted(id=job_id) if ended is None else _object(api, request, ended))

    return routes


async def cancel_or_delete(api: Api, job: job_pb2.Job) -> job_pb2.Job | None:
    """The job as it ended on being cancelled; None: it had ended, and is forgotten. Raises ApiError 504."""
    if has_ended(job):
        await api.service.delete(job.id)
        return None
    try:
        async with asyncio.timeout(_CANCEL_SECONDS):
            return await api.service.cancel(job.id)
    except TimeoutError:
        text = f"Job {job.id} is asked to stop and will at its next step, but has not yet"
        raise ApiError(504, text, code="cancel_pending") from None


def _list(api: Api, request: Request, jobs: list[job_pb2.Job]) -> JobList:
    return JobList(data=[_object(api, request, job) for job in jobs], ids=[job.id for job in jobs])


def _object(api: Api, request: Request, job: job_pb2.Job) -> JobObject:
    return job_object(job, str(request.base_url), api.limits.retain_seconds)
