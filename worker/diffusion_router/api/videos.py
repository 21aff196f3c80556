"""`/v1/videos`: videos, asynchronously, as OpenAI's clients ask for them."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from diffusion_router.api.documents import errors, json_or_form_body
from diffusion_router.api.errors import ApiError, job_error, not_found
from diffusion_router.api.files import stream_artifact
from diffusion_router.api.jobs import cancel_or_delete
from diffusion_router.api.kinds import VIDEO, VIDEO_FORMAT
from diffusion_router.api.objects import VideoDeleted, VideoList, VideoObject, has_ended, is_video, video_object
from diffusion_router.api.responses import respond
from diffusion_router.api.submission import Api
from diffusionpipeline.v1 import job_pb2


def video_routes(api: Api) -> APIRouter:
    routes = APIRouter(tags=["videos"])

    @routes.post(
        "/v1/videos",
        operation_id="create_video",
        summary="Text or image to video; answers at once",
        responses={200: {"model": VideoObject}, **errors(400, 404, 408, 413, 415, 422, 429, 503)},
        openapi_extra=json_or_form_body(api.reader.schema(VIDEO), VIDEO),
    )
    async def create(request: Request) -> Response:
        submitted = await api.submit(request, VIDEO)
        return respond(_object(api, submitted.jobs[0]))

    @routes.get(
        "/v1/videos",
        operation_id="list_videos",
        summary="Videos that are made or kept",
        responses={200: {"model": VideoList}, **errors(400, 503)},
    )
    async def list_videos(
        after: Annotated[str | None, Query(max_length=64, description="Begin after this id")] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> Response:
        if after is not None and ((last := await api.find(after)) is None or not is_video(last)):
            raise ApiError(400, f"There is no video {after!r} to begin after", code="invalid_value", param="after")
        jobs, has_more = await api.service.page(VIDEO_FORMAT, limit, after=after, oldest_first=order == "asc")
        data = [_object(api, job) for job in jobs]
        return respond(
            VideoList(
                data=data,
                first_id=data[0].id if data else None,
                last_id=data[-1].id if data else None,
                has_more=has_more,
            )
        )

    @routes.get(
        "/v1/videos/{video_id}",
        operation_id="get_video",
        summary="How far a video is",
        responses={200: {"model": VideoObject}, **errors(404, 503)},
    )
    async def get(video_id: str) -> Response:
        return respond(_object(api, await _video(api, video_id)))

    @routes.delete(
        "/v1/videos/{video_id}",
        operation_id="delete_video",
        summary="Cancel a video that is being made; forget one that is finished",
        responses={200: {"model": VideoDeleted}, **errors(404, 503, 504)},
    )
    async def delete(video_id: str) -> Response:
        await cancel_or_delete(api, await _video(api, video_id))
        return respond(VideoDeleted(id=video_id))

    @routes.get(
        "/v1/videos/{video_id}/content",
        operation_id="get_video_content",
        summary="The MP4 file",
        response_class=Response,
        responses={
            200: {"content": {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}},
            **errors(400, 404, 500, 503, 504),
        },
    )
    async def content(video_id: str, variant: Literal["video"] = "video") -> Response:
        job = await _video(api, video_id)
        if not has_ended(job):
            raise ApiError(400, f"Video {video_id} is not finished yet", code="video_not_ready")
        if job.status != job_pb2.JOB_STATUS_COMPLETED:
            raise job_error(job)
        if not job.artifacts:
            raise not_found("Content of video", video_id)
        return await stream_artifact(api, job.artifacts[0].key)

    return routes


async def _video(api: Api, video_id: str) -> job_pb2.Job:
    job = await api.job(video_id)
    if not is_video(job):
        raise not_found("Video", video_id)
    return job


def _object(api: Api, job: job_pb2.Job) -> VideoObject:
    return video_object(job, api.limits.retain_seconds)
