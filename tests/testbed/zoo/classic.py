"""Diffusers' own pipelines, with nothing of ours, to compare with."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

from testbed.zoo.cache import ensure
from testbed.zoo.cases import Case, control_pictures, inputs_of, shown_pictures
from testbed.zoo.catalogue import FAMILIES
from testbed.zoo.control_nets import lead
from testbed.zoo.ip_adapters import show

_OF_PICTURES = {
    "ltx-image-to-video": "LTXImageToVideoPipeline",
    "ltx2-image-to-video": "LTX2ImageToVideoPipeline",
    "sd15-mask": "StableDiffusionInpaintPipeline",
    "sdxl-mask": "StableDiffusionXLInpaintPipeline",
    "qwen-mask": "QwenImageInpaintPipeline",
    "cogvideox-video-to-video": "CogVideoXVideoToVideoPipeline",
}
"""The classic pipelines for an input picture or video that a checkpoint does not name itself."""
_MASK = {"wan21-vace": "mask", "wan22-vace": "mask"}
"""What some classic pipelines call a video of masks."""
_WITH_ALPHA = ("qwen-layered",)
"""Families whose classic pipeline takes pictures with an alpha channel alone."""


def plain(case: Case) -> Any:
    """What it makes of a case: pixels, 0 to 1."""
    pipeline, arguments = classic(case)
    made = pipeline(**arguments, output_type="np")
    return made.frames if hasattr(made, "frames") else made.images


def classic(case: Case) -> tuple[Any, dict[str, Any]]:
    """Diffusers' own pipeline, with nothing of ours, and what to call it with."""
    import diffusers
    import torch
    from diffusers.pipelines import auto_pipeline

    family = FAMILIES[case.family]
    path = ensure(family.checkpoint)
    pipeline = getattr(diffusers, family.checkpoint.pipeline).from_pretrained(path, dtype=getattr(torch, case.dtype))
    pipeline.to(case.device)
    pipeline.set_progress_bar_config(disable=True)
    if family.images and case.family.endswith("image-to-image"):
        pipeline = auto_pipeline.AutoPipelineForImage2Image.from_pipe(pipeline)
    elif case.family in _OF_PICTURES:
        pipeline = getattr(diffusers, _OF_PICTURES[case.family]).from_pipe(pipeline)
    if case.tiled:
        pipeline.vae.enable_tiling()
    taken = inspect.signature(pipeline.__call__).parameters
    fields = {**family.request, **dict(case.changes)}
    given = {**fields, **fields.get("extra", {})}
    if "clip_skip" in given and not hasattr(pipeline.text_encoder, "text_model"):
        # Diffusers' code for it is of a transformers whose model had a tower in it, and now is that tower.
        pipeline.text_encoder.__dict__["text_model"] = pipeline.text_encoder
    given |= inputs_of(family, case.picture)
    if case.family in _WITH_ALPHA:
        # Their blocks do what the model was published with.
        given |= {"image": given["image"].convert("RGBA"), "cfg_normalize": True}
    if case.family in _MASK:
        given[_MASK[case.family]] = given.get("mask_video")
    given["video_length"] = given.get("num_frames")
    given["true_cfg_scale"] = given.get("guidance_scale")
    arguments = {name: value for name, value in given.items() if name in taken and value is not None}
    arguments |= {"generator": torch.Generator("cpu").manual_seed(given["seed"])}
    if case.controls:
        led = arguments | {"controls": control_pictures(case)}
        pipeline, arguments = lead(pipeline, family.checkpoint, case.controls, led)
    if case.shown:
        arguments |= show(pipeline, family.checkpoint, case.shown, shown_pictures(case))
    return pipeline, arguments


@contextlib.contextmanager
def decoded_by(vae: Any) -> Iterator[list[Any]]:
    """What all VAEs of this class are given to decode."""
    original, given = vae.decode, []

    def decode(self: Any, z: Any, *args: Any, **kwargs: Any) -> Any:
        given.append(z.detach().clone())
        return original(self, z, *args, **kwargs)

    vae.decode = decode
    try:
        yield given
    finally:
        vae.decode = original
