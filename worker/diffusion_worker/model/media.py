"""What a decoder made, as a file: PNG, WebP or JPEG for a picture, MP4 (H.264, AAC) for frames.

The same frames always give the same bytes: no time stamps, no encoder threads that race.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from diffusion_worker.model.intact import check_made
from diffusion_worker.model.types import Media, ModelError

Frames = NDArray[np.uint8]
"""[frames, height, width, 3 or 4], RGB, with an alpha channel where pictures have one."""

IMAGE_FORMATS: Final = {
    "png": ("PNG", "image/png", {"compress_level": 4}),
    "webp": ("WEBP", "image/webp", {"lossless": True, "quality": 80, "method": 4}),
    "jpeg": ("JPEG", "image/jpeg", {"quality": 95, "subsampling": 0}),
}
VIDEO_CRF: Final = 17
"""Constant rate factor of H.264: 17 can't be told from the frames by eye."""
# On pictures of up to 64 pixels x264's look-ahead searches beyond what it filled in, with some processors'
# instructions: the same frames then give another file now and then. Without the macroblock tree nothing depends on it.
_SMALL_SIDE: Final = 128


@dataclass(frozen=True)
class Audio:
    """A sound track."""

    samples: NDArray[np.float32]
    """[channels, samples], -1 to 1."""
    rate: int
    """Samples per second."""


def frames_of(made: Any) -> list[Frames]:
    """What a pipeline's `images` or `videos` holds, one entry of frames for each file.

    Takes PIL images (in lists for videos), float arrays 0 to 1 ([…, height, width, channels]) and float tensors
    ([…, channels, height, width]). Raises ModelError for values that are not finite.
    """
    if isinstance(made, torch.Tensor):
        made = made.detach().float().cpu().movedim(-3, -1).numpy()
    if isinstance(made, np.ndarray):
        # [frames of one file, …]: pictures are [batch, h, w, c], videos [batch, frames, h, w, c].
        batch = made if made.ndim == 5 else made[:, None]
        return [_uint8(one) for one in batch]
    if isinstance(made, Image.Image):
        return [_pictures([made])]
    if isinstance(made, Sequence) and made:
        if isinstance(made[0], Image.Image):
            return [_pictures([picture]) for picture in made]
        if isinstance(made[0], torch.Tensor):
            return [_uint8(one.detach().float().cpu().movedim(-3, -1).numpy()) for one in made]
        if isinstance(made[0], np.ndarray):
            return [_uint8(one) for one in made]
        if isinstance(made[0], Sequence) and made[0] and isinstance(made[0][0], Image.Image):
            return [_pictures(pictures) for pictures in made]
    raise ModelError(f"the pipeline returned {type(made).__name__}, which is neither pictures nor frames")


def encode_images(made: Any, output_format: str, *, layered: bool = False) -> list[Media]:
    """What a pipeline's `images` holds, a file for each picture, or for each layer of one.

    Raises ModelError for frames of a video.
    """
    pictures = frames_of(made)
    if layered:
        pictures = [layer[None] for picture in pictures for layer in picture]
    if any(len(one) != 1 for one in pictures):
        raise ModelError(f"the pipeline returned {len(pictures[0])} frames where it is to make a picture")
    return [encode_image(one, output_format) for one in pictures]


def encode_image(frames: Frames, output_format: str) -> Media:
    """The first of `frames` as a file of `output_format`, a key of IMAGE_FORMATS."""
    name, media_type, options = IMAGE_FORMATS[output_format]
    buffer = io.BytesIO()
    picture = Image.fromarray(frames[0])
    (picture.convert("RGB") if name == "JPEG" else picture).save(buffer, format=name, **options)
    height, width = frames.shape[1:3]
    return Media(buffer.getvalue(), media_type, width, height, 1)


def encode_video(frames: Frames, fps: int, audio: Audio | None = None) -> Media:
    """The frames as an MP4 file with `fps` frames per second, and a sound track if there is one."""
    count, height, width = frames.shape[:3]
    # 4:2:0 halves both sides, so odd ones keep their colour at full size.
    pixel_format = "yuv420p" if height % 2 == 0 and width % 2 == 0 else "yuv444p"
    with TemporaryDirectory() as folder:
        # A file, for +faststart moves the index to the front by reading again what was written.
        path = Path(folder) / "video.mp4"
        with av.open(
            str(path), "w", format="mp4", options={"movflags": "+faststart", "fflags": "+bitexact"}
        ) as container:
            options = {"crf": str(VIDEO_CRF), "preset": "medium"}
            if min(width, height) < _SMALL_SIDE:
                options["x264-params"] = "mbtree=0"
            stream = container.add_stream("libx264", rate=fps, options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
            stream.codec_context.thread_count = 1
            stream.codec_context.time_base = Fraction(1, fps)
            sound = None if audio is None else _add_sound(container, audio)
            for index, picture in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[..., :3]), format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, fps)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            if audio is not None:
                _write_sound(container, sound, audio)
        return Media(path.read_bytes(), "video/mp4", width, height, count)


def sound_of(made: object, vocoder: object) -> Audio | None:
    """What goes beside a video, of what `vocoder` made; None if that is nothing, or no rate is told."""
    rate = getattr(getattr(vocoder, "config", None), "output_sampling_rate", None)
    if not isinstance(made, torch.Tensor) or not isinstance(rate, int):
        return None
    samples = made[0].detach().float().cpu().numpy()
    return Audio(samples.reshape(-1, samples.shape[-1])[:2], rate)


def _add_sound(container: Any, audio: Audio) -> Any:
    stream = container.add_stream("aac", rate=audio.rate, layout="stereo" if len(audio.samples) == 2 else "mono")
    stream.codec_context.thread_count = 1
    return stream


def _write_sound(container: Any, stream: Any, audio: Audio) -> None:
    samples = np.clip(np.ascontiguousarray(audio.samples), -1.0, 1.0)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo" if len(samples) == 2 else "mono")
    frame.sample_rate, frame.pts, frame.time_base = audio.rate, 0, Fraction(1, audio.rate)
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _pictures(pictures: Sequence[Image.Image]) -> Frames:
    return np.stack([np.asarray(picture.convert("RGB"), dtype=np.uint8) for picture in pictures])


def _uint8(values: NDArray[Any]) -> Frames:
    """[frames, height, width, channels] of floats 0 to 1 (or bytes), with one, three or four channels."""
    if values.dtype != np.uint8:
        check_made(values, "pixels")
        values = (np.clip(values.astype(np.float32), 0.0, 1.0) * 255.0).round().astype(np.uint8)
    if values.shape[-1] == 1:
        values = np.repeat(values, 3, axis=-1)
    return np.ascontiguousarray(values[..., :4])
