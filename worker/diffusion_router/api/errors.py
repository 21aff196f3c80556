"""Errors in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from starlette.responses import Response

from diffusion_router.admission import IdempotencyConflict
from diffusion_router.api.fields import InvalidField
from diffusion_router.core import QueueFull, Refused, TooLate
from diffusion_router.store import ArtifactNotFound, InvalidKey, StoreUnavailable
from diffusionpipeline.process.refusals import error_body
from diffusionpipeline.v1 import job_pb2, stage_pb2
from diffusionpipeline.words import word


class ApiError(Exception):
    """An answer that is not 2xx. param: the field at fault, if one is; code: for programs, stable."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = headers

    def response(self) -> Response:
        body = error_body(self.status, self.message, code=self.code, param=self.param)
        return Response(body, self.status, headers=self.headers, media_type="application/json")


def not_found(what: str, name: str) -> ApiError:
    return ApiError(404, f"{what} {name[:100]!r} does not exist, or has expired", code="not_found")


def too_large(limit: int) -> ApiError:
    return ApiError(413, f"The request's body is larger than the {limit} bytes allowed here", code="request_too_large")


def translate(error: Exception) -> ApiError | None:
    """What the parts below raise, as the answer that the client gets. None: a defect of the router."""
    match error:
        case ApiError():
            return error
        case InvalidField():
            return ApiError(400, str(error), code=error.code, param=error.field)
        case QueueFull():
            return ApiError(429, str(error), code="queue_full", headers=_come_back(error))
        case TooLate():
            text = str(error)
            return ApiError(429, text, code="too_late", param="timeout_seconds", headers=_come_back(error))
        case IdempotencyConflict():
            return ApiError(422, str(error), code="idempotency_conflict", param="Idempotency-Key")
        case ArtifactNotFound() | InvalidKey():
            return ApiError(404, "This file does not exist, or has expired", code="not_found")
        case StoreUnavailable():
            return ApiError(503, str(error), code="store_unavailable", headers={"Retry-After": "1"})
        case TimeoutError():
            return ApiError(504, "The router did not finish this in time", code="timeout")
        case _:
            return None


def _come_back(refused: Refused) -> dict[str, str]:
    return {"Retry-After": str(retry_after_seconds(refused.retry_after))}


def retry_after_seconds(predicted: float) -> int:
    """Whole seconds, at least 1: what the header can say."""
    return max(1, math.ceil(predicted)) if math.isfinite(predicted) else 60


_FAILURE_STATUS: Final = {
    stage_pb2.FAILURE_KIND_INVALID_REQUEST: 400,
    stage_pb2.FAILURE_KIND_TOO_LARGE: 400,
    stage_pb2.FAILURE_KIND_DEADLINE: 504,
}


def job_error(job: job_pb2.Job) -> ApiError:
    """Why a job that has ended did not complete."""
    if job.status == job_pb2.JOB_STATUS_CANCELLED:
        return ApiError(400, f"Job {job.id} was cancelled", code="cancelled")
    return ApiError(
        _FAILURE_STATUS.get(job.failure.kind, 500),
        job.failure.message or f"Job {job.id} failed",
        code=word(stage_pb2.FailureKind, job.failure.kind),
        # The router has tried it as often as it makes sense; OpenAI's clients repeat every 5xx unless told.
        headers={"x-should-retry": "false"},
    )
