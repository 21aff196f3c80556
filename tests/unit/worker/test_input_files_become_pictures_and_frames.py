"""What clients send is opened within bounds, upright and in order, or refused in words that name the input."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from diffusion_worker.model.media import encode_video
from diffusion_worker.model.types import InvalidRequest
from diffusion_worker.work.opening import Bounds, open_files

BOUNDS = Bounds(pixels=64 * 64)
SHADES = (20, 90, 160, 230)


def still(shade: int, size: tuple[int, int] = (32, 16)) -> Image.Image:
    return Image.new("RGB", size, (shade, shade, shade))


def png(shade: int) -> bytes:
    out = io.BytesIO()
    still(shade).save(out, "PNG")
    return out.getvalue()


def mp4(shades: Sequence[int] = SHADES, size: tuple[int, int] = (32, 16)) -> bytes:
    return encode_video(np.stack([np.asarray(still(shade, size)) for shade in shades]), 8).data


def gif(shades: Sequence[int] = SHADES) -> bytes:
    out = io.BytesIO()
    first, *rest = (still(shade) for shade in shades)
    first.save(out, "GIF", save_all=True, append_images=rest, duration=100)
    return out.getvalue()


def container(name: str, codec: str, frames: int = 2) -> bytes:
    """A file of another container or codec than those that are taken."""
    out = io.BytesIO()
    with av.open(out, "w", format=name) as file:
        stream = file.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 16, stream.codec.video_formats[0].name
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 32, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 8)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


def damaged() -> bytes:
    """With zeros for all that was filmed."""
    data = mp4(range(0, 250, 10))
    begin = data.index(b"mdat") + 4
    return data[:begin] + bytes(len(data) - begin)


def sound_alone() -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


def shades_of(frames: Any) -> list[int]:
    return [round(float(np.asarray(frame).mean())) for frame in frames]


@pytest.mark.parametrize("write", [mp4, gif])
@pytest.mark.parametrize("name", ["video", "control_video", "mask_video"])
def test_a_video_becomes_its_frames_in_order(write: Callable[[], bytes], name: str) -> None:
    frames = open_files(name, [write()], BOUNDS)
    assert shades_of(frames) == pytest.approx(SHADES, abs=3)
    assert {(frame.size, frame.mode) for frame in frames} == {((32, 16), "RGB")}


def test_pictures_of_one_name_stay_in_order_and_one_stays_one() -> None:
    assert shades_of(open_files("image", [png(shade) for shade in SHADES], BOUNDS)) == [*SHADES]
    assert open_files("image", [png(7)], BOUNDS).size == (32, 16)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not an MP4 or GIF video"),
        (b"hello, this is no video at all", "not an MP4 or GIF video"),
        (png(1), "not an MP4 or GIF video"),
        (container("matroska", "libx264"), "not an MP4 or GIF video"),
        (b"\x00\x00\x00\x18ftypmp42 not really a film", "the file is cut off"),
        (b"\x00\x00\x00\x18ftypmp42 not a film!", "can't be read"),
        (b"GIF89a;", "can't be read|without a frame"),
        (mp4()[:200], "the file is cut off"),
        (mp4()[:-100], "the file is cut off"),
        (gif()[:-100], "the file is cut off"),
        (damaged(), "can't be read|damaged|without a frame"),
        (container("mp4", "mjpeg"), "a video of mjpeg; av1, gif, h264"),
        (sound_alone(), "without a video in it"),
        (mp4(size=(128, 64)), "128x64 pixels, at most 4096"),
    ],
)
def test_what_is_no_video_that_can_be_taken_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^video: .*({words})"):
        open_files("video", [data], BOUNDS)


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"frames": 3}, "more than the 3 frames"),
        ({"video_pixels": 32 * 16 * 3}, "1536 pixels that are allowed in all frames together; 4 frames of 32x16"),
        ({"seconds": 0.0}, "not decoded within 0 s"),
    ],
)
@pytest.mark.parametrize("write", [mp4, gif])
def test_a_video_that_has_no_end_is_read_no_further_than_its_bounds(
    bounds: dict[str, Any], words: str, write: Callable[[], bytes]
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        open_files("video", [write()], Bounds(pixels=64 * 64, **bounds))


def test_two_videos_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="video: one video is taken, and the request has 2"):
        open_files("video", [mp4(), mp4()], BOUNDS)


def test_a_video_is_no_picture() -> None:
    for data in (mp4(), gif()):
        with pytest.raises(InvalidRequest, match="image: not a PNG, JPEG or WebP picture"):
            open_files("image", [data], BOUNDS)
