"""A client's files as pictures and frames.

Nothing in them is trusted: sizes are checked before anything is decoded, and what is decoded is counted.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageOps

from diffusion_worker.model.types import InvalidRequest, Pictures
from diffusionpipeline.words import VIDEO_INPUTS

IMAGE_FORMATS: Final = ("PNG", "JPEG", "WEBP")
# What cameras, browsers and this project write. FFmpeg knows hundreds more, each with its own parser of foreign bytes.
VIDEO_CODECS: Final = frozenset({"h264", "hevc", "av1", "vp9", "mpeg4", "gif"})
_MP4_BRAND: Final = b"ftyp"
_BOX_HEADER: Final = 8
_GIF: Final = (b"GIF87a", b"GIF89a")
_GIF_END: Final = b";"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What one input file may unpack to. pixels: of one picture or frame. frames: of one video. video_pixels: of all
    frames of a video together. seconds: of decoding one."""

    pixels: int
    frames: int = 1024
    video_pixels: int = 1 << 27
    seconds: float = 60.0


def open_files(name: str, files: Sequence[bytes], bounds: Bounds) -> Pictures:
    """A request's files of one name: its picture, or several in order, or a video's frames; upright and RGB.

    Raises InvalidRequest, which names the input.
    """
    if name not in VIDEO_INPUTS:
        pictures = [_open_picture(name, data, bounds.pixels) for data in files]
        return pictures if len(pictures) > 1 else pictures[0]
    if len(files) > 1:
        raise InvalidRequest(f"{name}: one video is taken, and the request has {len(files)}")
    return _open_video(name, files[0], bounds)


def _open_picture(name: str, data: bytes, max_pixels: int) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            _check_size(name, image.width, image.height, max_pixels)
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidRequest(f"{name}: not a PNG, JPEG or WebP picture that can be read ({error})") from error


def _open_video(name: str, data: bytes, bounds: Bounds) -> list[Image.Image]:
    frames: list[Image.Image] = []
    pixels = 0
    for frame in _frames(name, data, bounds):
        frames.append(frame)
        pixels += frame.width * frame.height
        if len(frames) > bounds.frames:
            raise InvalidRequest(f"{name}: more than the {bounds.frames} frames that are allowed")
        if pixels > bounds.video_pixels:
            raise InvalidRequest(
                f"{name}: more than the {bounds.video_pixels} pixels that are allowed in all frames together; "
                f"{len(frames)} frames of {frame.width}x{frame.height} have them"
            )
    if not frames:
        raise InvalidRequest(f"{name}: a video without a frame")
    return frames


def _frames(name: str, data: bytes, bounds: Bounds) -> Iterator[Image.Image]:
    # Only an encoder that is sent a video needs it.
    import av

    end = time.monotonic() + bounds.seconds
    # By its first bytes and no other way: FFmpeg would guess, and playlists or scripts of its name other files.
    container_format = "gif" if data[:6] in _GIF else "mp4" if data[4:8] == _MP4_BRAND else None
    if container_format is None:
        raise InvalidRequest(f"{name}: not an MP4 or GIF video")
    if not (data.endswith(_GIF_END) if container_format == "gif" else _is_whole_mp4(data)):
        raise InvalidRequest(f"{name}: the file is cut off, or something follows its end")
    try:
        with av.open(io.BytesIO(data), format=container_format) as container:
            if not container.streams.video:
                raise InvalidRequest(f"{name}: an MP4 file without a video in it")
            stream = container.streams.video[0]
            codec = stream.codec_context
            if codec.name not in VIDEO_CODECS:
                raise InvalidRequest(f"{name}: a video of {codec.name}; {', '.join(sorted(VIDEO_CODECS))} are taken")
            _check_size(name, codec.width, codec.height, bounds.pixels)
            codec.thread_count = 1
            for packet in container.demux(stream):
                if time.monotonic() > end:
                    raise InvalidRequest(f"{name}: not decoded within {bounds.seconds:g} s")
                for frame in packet.decode():
                    # A stream may change its size on the way.
                    _check_size(name, frame.width, frame.height, bounds.pixels)
                    if frame.is_corrupt:
                        raise InvalidRequest(f"{name}: a video with damaged frames")
                    yield frame.to_image().convert("RGB").rotate(frame.rotation, expand=True)
    except av.FFmpegError as error:
        raise InvalidRequest(f"{name}: a video that can't be read ({error.strerror or error})") from error


def _is_whole_mp4(data: bytes) -> bool:
    """Whether its boxes end where it ends. FFmpeg would take what is there of a file for all of it."""
    place = 0
    while place < len(data):
        size = int.from_bytes(data[place : place + 4])
        if size == 1:
            size = int.from_bytes(data[place + 8 : place + 16])
        elif size == 0:
            return True
        if size < _BOX_HEADER:
            return False
        place += size
    return place == len(data)


def _check_size(name: str, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise InvalidRequest(f"{name}: {width}x{height} pixels, at most {max_pixels} are allowed")
