"""`/v1/images`: pictures, synchronously, as OpenAI's clients ask for them."""

from __future__ import annotations

import base64
import json
import time
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from diffusion_router.api.documents import errors, json_body, json_or_form_body
from diffusion_router.api.kinds import EDIT, GENERATION, Kind
from diffusion_router.api.objects import ImagesResponse, file_url
from diffusion_router.api.submission import Api
from diffusion_router.api.waiting import ClientGone, wait_for_all
from diffusionpipeline.v1 import job_pb2

# What servers answer a client that has hung up. Nobody reads it but logs.
_CLIENT_CLOSED_REQUEST: Final = 499


def image_routes(api: Api) -> APIRouter:
    routes = APIRouter(tags=["images"])

    @routes.post(
        "/v1/images/generations",
        operation_id="create_image",
        summary="Text to image",
        responses={200: {"model": ImagesResponse}, **errors(400, 404, 408, 413, 415, 422, 429, 500, 503, 504)},
        openapi_extra=json_body(api.reader.schema(GENERATION)),
    )
    async def generations(request: Request) -> Response:
        return await _respond(api, request, GENERATION)

    @routes.post(
        "/v1/images/edits",
        operation_id="edit_image",
        summary="Image to image",
        responses={200: {"model": ImagesResponse}, **errors(400, 404, 408, 413, 415, 422, 429, 500, 503, 504)},
        openapi_extra=json_or_form_body(api.reader.schema(EDIT), EDIT),
    )
    async def edits(request: Request) -> Response:
        return await _respond(api, request, EDIT)

    return routes


async def _respond(api: Api, request: Request, kind: Kind) -> Response:
    submitted = await api.submit(request, kind)
    try:
        jobs = await wait_for_all(api, request, submitted)
    except ClientGone:
        return Response(status_code=_CLIENT_CLOSED_REQUEST)
    if submitted.request.as_url:
        base_url = str(request.base_url)
        data = [_datum(job, "url", file_url(base_url, file.key).encode()) for job in jobs for file in job.artifacts]
    else:
        data = [
            _datum(job, "b64_json", base64.b64encode(await api.service.artifacts.read(file.key)))
            for job in jobs
            for file in job.artifacts
        ]
    rest = {
        "created": int(time.time()),
        "output_format": jobs[0].parameters.output_format,
        "jobs": [job.id for job in jobs],
    }
    # By hand, because a JSON encoder would look at, and copy, each of a picture's million characters.
    body = b"".join((json.dumps(rest).encode()[:-1], b', "data": [', b", ".join(data), b"]}"))
    return Response(body, media_type="application/json")


def _datum(job: job_pb2.Job, name: str, value: bytes) -> bytes:
    """value: of characters that JSON takes as they are, as base64 and our URLs have."""
    return b'{"%s": "%s", "seed": %d}' % (name.encode(), value, job.parameters.seed)
