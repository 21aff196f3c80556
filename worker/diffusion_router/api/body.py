"""Request bodies: bounded while they arrive, parsed, and their files checked before anything else sees them."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final, ParamSpec, TypeVar

from PIL import Image, UnidentifiedImageError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from diffusion_router.api import plain_json
from diffusion_router.api.errors import ApiError, too_large
from diffusion_router.api.fields import InvalidField
from diffusion_router.api.kinds import PICTURED, SEVERAL, Kind
from diffusion_router.api.limits import Limits
from diffusion_router.api.pictured import without_pictures
from diffusion_router.api.validation import RequestReader
from diffusionpipeline.words import VIDEO_INPUTS

P = ParamSpec("P")
T = TypeVar("T")

# What is parsed at once; more is parsed in a thread, one body after another.
_AT_ONCE: Final = 1 << 20
# Of each body, what does not count against the bytes in flight: a prompt finds room whatever others upload.
_FREE_BYTES: Final = 64 << 10
_MAX_FORM_FIELDS: Final = 200
_MEDIA_TYPES: Final = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
_DATA_URL: Final = re.compile(r"data:[a-z0-9./+-]{0,100};base64")
# Decoding holds a picture's pixels in memory: this many at once.
_decoders = asyncio.Semaphore(2)


@dataclass(frozen=True, slots=True)
class File:
    """One whole picture of an allowed format, or what begins as a video. argument: the pipeline's, that takes it."""

    argument: str
    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Body:
    values: Mapping[str, object]
    files: list[File] = field(default_factory=list)
    """In the order of the form."""


class BodyReader:
    """Reads the bodies of all requests under the given limits."""

    def __init__(self, reader: RequestReader, limits: Limits) -> None:
        self._reader = reader
        self._limits = limits
        self._bytes_in_flight = 0
        self._parsing = asyncio.Semaphore(1)

    @asynccontextmanager
    async def read(self, request: Request, kind: Kind) -> AsyncIterator[Body]:
        """JSON or, where `kind` has files, a form. It is in flight until the context is left.

        Raises ApiError, InvalidField.
        """
        counted = _Counted()
        try:
            yield await self._read(request, kind, self._chunks(request, counted))
        finally:
            self._bytes_in_flight -= counted.nbytes

    async def _read(self, request: Request, kind: Kind, chunks: AsyncGenerator[bytes, None]) -> Body:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            if media_type == "multipart/form-data" and kind.files:
                return await self._form(request, kind, chunks)
            if media_type in ("application/json", ""):
                body = b"".join([chunk async for chunk in chunks])
                values = await self._json(body)
                return await self._inlined(len(body), kind, values)
        except ClientDisconnect:
            text = "The client hung up before its request was complete"
            raise ApiError(400, text, code="client_disconnected") from None
        wanted = "multipart/form-data" if kind.needs_image else "application/json"
        text = f"Content-Type {media_type[:100]!r} is not understood here; send {wanted}"
        raise ApiError(415, text, code="media_type")

    async def _chunks(self, request: Request, counted: _Counted) -> AsyncGenerator[bytes, None]:
        """The body as it comes, as long as it keeps to its time and there is room for it.

        The HTTP server reads and drops the rest of one that is refused, since a client that still sends would miss the
        answer if the connection were closed on it.
        """
        if int(request.headers.get("content-length", 0)) > self._limits.max_upload_bytes:
            raise too_large(self._limits.max_upload_bytes)
        chunks = request.stream()
        end = asyncio.get_running_loop().time() + self._limits.body_seconds
        received = 0
        while True:
            try:
                async with asyncio.timeout_at(end):
                    chunk = await anext(chunks, None)
            except TimeoutError:
                text = f"The body did not arrive within {self._limits.body_seconds:g} s"
                raise ApiError(408, text, code="timeout", headers={"Connection": "close"}) from None
            if chunk is None:
                return
            received += len(chunk)
            if received > self._limits.max_upload_bytes:
                raise too_large(self._limits.max_upload_bytes)
            self._count(max(0, received - _FREE_BYTES), counted)
            yield chunk

    def _count(self, nbytes: int, counted: _Counted) -> None:
        """nbytes: of one body, all in all."""
        more = nbytes - counted.nbytes
        if self._bytes_in_flight + more > self._limits.max_body_bytes_in_flight:
            text = "Too many bytes of other requests' bodies are on their way. Try again soon"
            raise ApiError(503, text, code="too_many_bytes", headers={"Retry-After": "1"})
        self._bytes_in_flight += more
        counted.nbytes = nbytes

    async def _json(self, body: bytes) -> Mapping[str, object]:
        try:
            values = await self._parse(len(body), _parse_json, body, self._limits.max_json_values)
        except ValueError as error:
            raise ApiError(400, f"The body is not JSON that is taken here: {error}", code="invalid_json") from None
        if not isinstance(values, dict):
            raise ApiError(400, "The body must be a JSON object", code="invalid_json")
        return values

    async def _form(self, request: Request, kind: Kind, chunks: AsyncGenerator[bytes, None]) -> Body:
        form = await self._parts(request, chunks)
        texts: list[tuple[str, str]] = []
        files: list[tuple[str, bytes]] = []
        for name, part in form.multi_items():
            if not isinstance(part, UploadFile):
                texts.append((name, part))
                continue
            if name not in kind.files:
                raise InvalidField(name[:100], f"Unknown file {name[:100]!r}: remove it", code="unknown_field")
            files.append((name, await part.read()))
        length = sum(len(text) for _, text in texts)
        return await self._body(kind, files, await self._parse(length, self._reader.parse_form, kind, texts))

    async def _body(self, kind: Kind, given: Sequence[tuple[str, bytes]], values: Mapping[str, object]) -> Body:
        if len(given) > self._limits.max_images_per_request:
            text = f"{len(given)} files; at most {self._limits.max_images_per_request} are allowed"
            raise InvalidField(given[-1][0], text)
        files: list[File] = []
        for name, data in given:
            argument = kind.files.get(name) or name.partition("[")[0]
            if argument not in SEVERAL and any(file.argument == argument for file in files):
                raise InvalidField(name, f"File {name!r} is given twice, and no model takes several of it")
            files.append(await read_file(name, argument, data, self._limits.max_pixels))
        if kind.needs_image and all(file.argument != "image" for file in files):
            raise InvalidField("image", "A file 'image' is required", code="missing_field")
        return Body({name: value for name, value in values.items() if name not in kind.files}, files)

    async def _inlined(self, length: int, kind: Kind, values: Mapping[str, object]) -> Body:
        """length: of the body, in bytes."""
        given = await self._parse(length, inlined, kind, values)
        bare = {one.field: without_pictures(values[one.field]) for one in PICTURED if one.field in values}
        return await self._body(kind, given, {**values, **bare})

    async def _parts(self, request: Request, chunks: AsyncGenerator[bytes, None]) -> FormData:
        parser = MultiPartParser(
            request.headers,
            chunks,
            max_files=self._limits.max_images_per_request,
            max_fields=_MAX_FORM_FIELDS,
            max_part_size=self._limits.max_upload_bytes,
        )
        # The body is bounded, and a pod's file system may be read-only: no files on disk.
        parser.spool_max_size = self._limits.max_upload_bytes + 1
        try:
            return await parser.parse()
        except MultiPartException as error:
            raise ApiError(400, f"The form is broken: {error.message}", code="invalid_form") from None
        except (KeyError, UnicodeError, LookupError):
            raise ApiError(400, "The form is broken: boundary or charset", code="invalid_form") from None

    async def _parse(self, length: int, parse: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
        if length <= _AT_ONCE:
            return parse(*given, **named)
        async with self._parsing:
            return await asyncio.to_thread(parse, *given, **named)


@dataclass(slots=True)
class _Counted:
    """What one body holds of the bytes that may be in flight."""

    nbytes: int = 0


def _parse_json(body: bytes, max_values: int) -> object:
    return plain_json.parse(body.decode(json.detect_encoding(body), "surrogatepass"), max_values)


def inlined(kind: Kind, values: Mapping[str, object]) -> list[tuple[str, bytes]]:
    """The files in a JSON body, by their fields: base64 or a data URL each, or a list of them. Raises InvalidField.

    An address of another kind is never followed.
    """
    found: list[tuple[str, bytes]] = []
    held = [one.form_file for one in PICTURED]
    for name in (name for name in kind.files if name not in held and values.get(name) is not None):
        value = values[name]
        found += [
            (name, _unpacked(name, one, ", or a list of them"))
            for one in (value if isinstance(value, list) else [value])
        ]
    for listed in PICTURED:
        found += [(name, _unpacked(name, one)) for name, one in listed.pictures(values.get(listed.field))]
    return found


def _unpacked(name: str, value: object, several: str = "") -> bytes:
    head, _, text = value.rpartition(",") if isinstance(value, str) else ("", "", "")
    try:
        if not text or (head and not _DATA_URL.fullmatch(head)):
            raise ValueError
        return base64.b64decode(text, validate=True)
    except ValueError:
        wanted = f"must be a file in base64 or as a data URL (data:image/png;base64,…){several}"
        raise InvalidField(name, f"Field {name!r} {wanted}", code="invalid_type") from None


async def read_file(name: str, argument: str, data: bytes, max_pixels: int) -> File:
    """The file as what its argument takes. Raises InvalidField, naming `name`.

    A picture is decoded once, so that no worker meets a broken one; a video by the worker alone, which has the codecs.
    """
    if argument in VIDEO_INPUTS:
        return File(argument, _video_type(name, data), data)
    async with _decoders:
        picture_format = await asyncio.to_thread(_decode, name, data, max_pixels)
    return File(argument, _MEDIA_TYPES[picture_format], data)


def _video_type(name: str, data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return "video/mp4"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "image/gif"
    raise InvalidField(name, f"File {name!r} is not an MP4 or GIF video", code="invalid_video")


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
