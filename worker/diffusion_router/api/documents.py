"""The parts of the OpenAPI document that FastAPI can't see: bodies are read by hand, so that they stay bounded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from diffusion_router.api.kinds import PICTURED, SEVERAL, Kind
from diffusion_router.api.objects import ErrorResponse
from diffusionpipeline.words import VIDEO_INPUTS

_WHY: Final = {
    400: "Something in the request can't be served; `param` names it",
    404: "There is no such thing, or no longer",
    408: "The body did not arrive in time",
    413: "The body is too large",
    415: "The body is of a type that is not understood",
    422: "The idempotency key belongs to another request",
    429: "The queue is full; Retry-After says for how long",
    500: "The job failed; `code` says how",
    503: "Not now; Retry-After says when",
    504: "The deadline passed",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorResponse, "description": _WHY[status]} for status in statuses}


def json_body(schema: Mapping[str, Any]) -> dict[str, Any]:
    return _with_key({"application/json": {"schema": _with_pictures(schema)}})


def json_or_form_body(schema: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    return _with_key(
        {
            "application/json": {"schema": _with_pictures(_with_files(schema, kind, "base64"))},
            "multipart/form-data": {"schema": _with_files(schema, kind, "binary")},
        }
    )


def _with_key(content: Mapping[str, object]) -> dict[str, Any]:
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "description": "The same key with the same request finds the jobs of the first one. When a client hangs up, "
        "the jobs of a request with a key go on",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    }
    return {"requestBody": {"required": True, "content": content}, "parameters": [key]}


def _with_pictures(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a request whose named things hold their pictures, as JSON has them."""
    properties = schema["properties"]
    whole = {one.field: one.schema_with_pictures() for one in PICTURED if one.field in properties}
    return {**schema, "properties": {**properties, **whole}}


def _with_files(schema: Mapping[str, Any], kind: Kind, encoding: str) -> dict[str, Any]:
    # `image[]` is another spelling of `image`, and in JSON a ControlNet or IP-Adapter holds its picture.
    held = [one.form_file for one in PICTURED] if encoding == "base64" else []
    left_out = [name for name in kind.files if name.endswith("[]") or name in held]
    files = {name: _file(argument, encoding) for name, argument in kind.files.items() if name not in left_out}
    return {
        **schema,
        "properties": schema["properties"] | files,
        "required": schema["required"] + (["image"] if kind.needs_image else []),
    }


def _file(argument: str, encoding: str) -> dict[str, Any]:
    """encoding: binary in a form, base64 (or a data URL) in JSON."""
    one = {"type": "string", "format": encoding}
    if argument in VIDEO_INPUTS:
        return {**one, "description": "An MP4 or GIF video"}
    if argument not in SEVERAL:
        return {**one, "description": "A PNG, JPEG or WebP picture"}
    several = {"type": "array", "items": one, "minItems": 1}
    return {"anyOf": [one, several], "description": "A PNG, JPEG or WebP picture; several, in order, for some models"}
