"""The HTTP server: all routes, and what holds for each of them: a bounded body, a deadline, errors in one form."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import version
from typing import Final, Literal

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffusion_router.api.body import BodyReader
from diffusion_router.api.errors import ApiError, translate
from diffusion_router.api.files import file_routes
from diffusion_router.api.images import image_routes
from diffusion_router.api.jobs import job_routes
from diffusion_router.api.limits import Limits
from diffusion_router.api.models import model_routes
from diffusion_router.api.submission import Api
from diffusion_router.api.validation import RequestReader
from diffusion_router.api.videos import video_routes
from diffusion_router.peers.registry import Registry
from diffusion_router.service import JobService

# For sending the body and for the answer, beyond the longest job.
_MARGIN_SECONDS: Final = 120.0

log = structlog.get_logger()


class Health(BaseModel):
    status: Literal["ok", "ready", "not_ready"]
    reason: str | None = None


def create_app(
    service: JobService, registry: Registry, limits: Limits, *, metrics: Callable[[], bytes], metrics_type: str
) -> FastAPI:
    """metrics: makes the body of /metrics, of the content type metrics_type."""
    app = FastAPI(
        title="diffusion-operator",
        summary="Images and videos from a diffusion pipeline that is cut by role",
        version=version("diffusion-operator"),
        # Both would load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    reader = RequestReader(limits)
    api = Api(service, registry, limits, reader, BodyReader(reader, limits))
    for routes in (image_routes, video_routes, job_routes, file_routes, model_routes):
        app.include_router(routes(api))
    _add_health(app, registry)
    _add_refusals(app)

    @app.get("/metrics", include_in_schema=False)
    async def scrape() -> Response:
        return Response(metrics(), headers={"Content-Type": metrics_type})

    app.add_middleware(Guard, max_seconds=limits.max_seconds + _MARGIN_SECONDS)
    return app


def _add_health(app: FastAPI, registry: Registry) -> None:
    @app.get("/healthz", operation_id="get_health", tags=["health"], responses={200: {"model": Health}})
    async def healthz() -> Response:
        """Whether this process works."""
        return JSONResponse({"status": "ok"})

    @app.get(
        "/readyz",
        operation_id="get_readiness",
        tags=["health"],
        responses={200: {"model": Health}, 503: {"model": Health}},
    )
    async def readyz() -> Response:
        """Whether each role has a worker that takes tasks."""
        if registry.ready():
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not_ready", "reason": "A role has no worker that takes tasks"}, 503)


def _add_refusals(app: FastAPI) -> None:
    """What FastAPI itself refuses, in OpenAI's form."""

    @app.exception_handler(HTTPException)
    async def refuse_url(request: Request, error: HTTPException) -> Response:
        codes = {404: "unknown_url", 405: "method_not_allowed"}
        text = f"{request.method} {request.url.path[:200]}: {error.detail}"
        code = codes.get(error.status_code, "http_error")
        return ApiError(error.status_code, text, code=code, headers=error.headers).response()

    @app.exception_handler(RequestValidationError)
    async def refuse_query(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = str(first["loc"][-1])
        return ApiError(400, f"Parameter {name!r}: {first['msg']}", code="invalid_value", param=name).response()


class Guard:
    """ASGI middleware: no request outlives its deadline, and a defect is one log entry and one plain answer."""

    def __init__(self, app: ASGIApp, max_seconds: float) -> None:
        self._app = app
        self._max_seconds = max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            async with asyncio.timeout(self._max_seconds):
                await self._app(scope, receive, watched)
        except Exception as error:
            expected = translate(error)
            if expected is None or started:
                log.exception("request_failed", method=scope["method"], path=scope["path"])
            # Once an answer has begun, all that is left is to break it off.
            if not started:
                answer = expected or ApiError(500, "The router failed on this request", code="internal_error")
                await answer.response()(scope, receive, send)
