"""Request bodies: bounded while they arrive, parsed, and their pictures checked before anything else sees them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final

from PIL import Image, UnidentifiedImageError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffusion_router.api.errors import ApiError, too_large
from diffusion_router.api.fields import InvalidField
from diffusion_router.api.kinds import Kind
from diffusion_router.api.limits import Limits
from diffusion_router.api.validation import RequestReader

BODY_SECONDS: Final = 60.0
_MAX_FORM_FIELDS: Final = 200
_MEDIA_TYPES: Final = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
# Decoding holds a picture's pixels in memory: this many at once.
_decoders = asyncio.Semaphore(2)


class BodyLimit:
    """ASGI middleware: a body that is announced as too large is refused unread, any other once too much has come.

    The rest of a refused body is read and dropped by the HTTP server, since a client that still sends would miss the
    answer if the connection were closed on it.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or int(value) > self._max_bytes):
                await too_large(self._max_bytes).response()(scope, receive, send)
                return
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise too_large(self._max_bytes)
            return message

        await self._app(scope, bounded, send)


@dataclass(frozen=True, slots=True)
class Picture:
    """A file that is one whole picture of an allowed format. argument: the pipeline's, that takes it."""

    argument: str
    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Body:
    values: Mapping[str, object]
    pictures: list[Picture] = field(default_factory=list)


async def read_body(request: Request, kind: Kind, reader: RequestReader, limits: Limits) -> Body:
    """JSON, or a form with files where `kind` has any. Raises ApiError, InvalidField."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            if media_type == "multipart/form-data" and kind.files:
                return await _read_form(request, kind, reader, limits)
            if media_type in ("application/json", ""):
                values = _parse_json(await request.body())
                if kind.needs_image:
                    raise InvalidField("image", "Send a multipart form with a file 'image'", code="missing_field")
                return Body(values)
    except TimeoutError:
        raise ApiError(408, f"The body did not arrive within {BODY_SECONDS:g} s", code="timeout") from None
    except ClientDisconnect:
        raise ApiError(400, "The client hung up before its request was complete", code="client_disconnected") from None
    wanted = "multipart/form-data" if kind.needs_image else "application/json"
    raise ApiError(415, f"Content-Type {media_type[:100]!r} is not understood here; send {wanted}", code="media_type")


def _parse_json(body: bytes) -> Mapping[str, object]:
    try:
        values = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ApiError(400, f"The body is not JSON: {reason}", code="invalid_json") from None
    if not isinstance(values, dict):
        raise ApiError(400, "The body must be a JSON object", code="invalid_json")
    return values


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")


async def _read_form(request: Request, kind: Kind, reader: RequestReader, limits: Limits) -> Body:
    parser = MultiPartParser(
        request.headers,
        request.stream(),
        max_files=limits.max_images_per_request,
        max_fields=_MAX_FORM_FIELDS,
        max_part_size=limits.max_upload_bytes,
    )
    # The body is bounded, and a pod's file system may be read-only: no files on disk.
    parser.spool_max_size = limits.max_upload_bytes + 1
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise ApiError(400, f"The form is broken: {error.message}", code="invalid_form") from None
    except (KeyError, UnicodeError, LookupError):
        raise ApiError(400, "The form is broken: boundary or charset", code="invalid_form") from None
    texts: list[tuple[str, str]] = []
    pictures: dict[str, Picture] = {}
    for name, part in form.multi_items():
        if not isinstance(part, UploadFile):
            texts.append((name, part))
            continue
        argument = kind.files.get(name)
        if argument is None:
            raise InvalidField(name[:100], f"Unknown file {name[:100]!r}: remove it", code="unknown_field")
        if argument in pictures:
            raise InvalidField(name, f"File {name!r}: this model takes one file as its {argument!r}")
        pictures[argument] = await read_picture(name, argument, await part.read(), limits.max_pixels)
    values = reader.parse_form(kind, texts)
    if kind.needs_image and "image" not in pictures:
        raise InvalidField("image", "A file 'image' is required", code="missing_field")
    return Body(values, list(pictures.values()))


async def read_picture(name: str, argument: str, data: bytes, max_pixels: int) -> Picture:
    """Decode the picture once, so that no worker meets a broken one. Raises InvalidField, naming `name`."""
    async with _decoders:
        picture_format = await asyncio.to_thread(_decode, name, data, max_pixels)
    return Picture(argument, _MEDIA_TYPES[picture_format], data)


def _decode(name: str, data: bytes, max_pixels: int) -> str:
    try:
        with Image.open(BytesIO(data), formats=tuple(_MEDIA_TYPES)) as image:
            width, height = image.size
            # From the header: a small file may unpack to gigabytes.
            if width * height > max_pixels:
                text = f"File {name!r} has {width}x{height} pixels; at most {max_pixels} in all are allowed"
                raise InvalidField(name, text)
            image.load()
            return str(image.format)
    except UnidentifiedImageError:
        raise InvalidField(name, f"File {name!r} is not a PNG, JPEG or WebP picture", code="invalid_image") from None
    except Image.DecompressionBombError:
        raise InvalidField(name, f"File {name!r} has more than the {max_pixels} pixels allowed") from None
    except InvalidField:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError) as error:
        raise InvalidField(name, f"File {name!r} is a broken picture: {error}", code="invalid_image") from None
