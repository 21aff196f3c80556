"""`/v1/files`: the files that jobs made, for `response_format: url` and for downloads."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final

from fastapi import APIRouter
from starlette.responses import Response, StreamingResponse

from diffusion_router.api.documents import errors
from diffusion_router.api.errors import not_found
from diffusion_router.api.submission import Api

_MEDIA_TYPES: Final = {".png": "image/png", ".webp": "image/webp", ".jpeg": "image/jpeg", ".mp4": "video/mp4"}


def file_routes(api: Api) -> APIRouter:
    routes = APIRouter(tags=["files"])

    @routes.get(
        "/v1/files/{key:path}",
        operation_id="get_file",
        summary="A file that a job made",
        response_class=Response,
        responses={
            200: {
                "content": {
                    media_type: {"schema": {"type": "string", "format": "binary"}}
                    for media_type in [*_MEDIA_TYPES.values(), "application/octet-stream"]
                }
            },
            **errors(404, 503),
        },
    )
    async def get(key: str) -> Response:
        # What clients sent is theirs alone.
        if not key.startswith("jobs/"):
            raise not_found("File", key)
        return await stream_artifact(api, key)

    return routes


async def stream_artifact(api: Api, key: str) -> Response:
    """Raises ArtifactNotFound, InvalidKey, StoreUnavailable."""
    artifact = await api.service.artifacts.open_artifact(key)
    return StreamingResponse(
        artifact.chunks,
        media_type=_MEDIA_TYPES.get(PurePosixPath(key).suffix, "application/octet-stream"),
        headers={"Content-Length": str(artifact.size), "X-Content-Type-Options": "nosniff"},
    )
