"""The zoo's catalogue: which tiny models there are, and what is asked of each. Importing it costs nothing."""

from __future__ import annotations

from testbed.zoo.family import Checkpoint, Family

SD15 = Checkpoint("sd15", "StableDiffusionPipeline", "images.sd15")
SD15_INPAINT = Checkpoint("sd15-inpaint", "StableDiffusionInpaintPipeline", "guided_by_pictures.sd15_inpaint")
SD15_CONTROLNET = Checkpoint(
    "sd15-controlnet", "StableDiffusionControlNetPipeline", "guided_by_pictures.sd15_controlnet"
)
SDXL_REFINER = Checkpoint("sdxl-refiner", "StableDiffusionXLImg2ImgPipeline", "guided_by_pictures.sdxl_refiner")
FLUX_CONTROL = Checkpoint("flux-control", "FluxControlPipeline", "guided_by_pictures.flux_control")
SDXL = Checkpoint("sdxl", "StableDiffusionXLPipeline", "images.sdxl")
SD3 = Checkpoint("sd3", "StableDiffusion3Pipeline", "images.sd3")
FLUX = Checkpoint("flux", "FluxPipeline", "images.flux")
KONTEXT = Checkpoint("flux-kontext", "FluxKontextPipeline", "images.kontext")
KLEIN = Checkpoint("flux2-klein", "Flux2KleinPipeline", "images.klein", {"is_distilled": True})
QWEN = Checkpoint("qwen-image", "QwenImagePipeline", "images.qwen")
ZIMAGE = Checkpoint("z-image", "ZImagePipeline", "images.zimage")
PIXART = Checkpoint("pixart-sigma", "PixArtSigmaPipeline", "images.pixart")
SANA = Checkpoint("sana", "SanaPipeline", "images.sana")
LUMINA2 = Checkpoint("lumina2", "Lumina2Pipeline", "images.lumina2")

WAN21 = Checkpoint("wan21", "WanPipeline", "videos.wan21")
WAN22 = Checkpoint("wan22", "WanPipeline", "videos.wan22", {"boundary_ratio": 0.875})
WAN_IMAGE = Checkpoint("wan-image-to-video", "WanImageToVideoPipeline", "videos.wan_image")
WAN_FRAMES = Checkpoint("wan-frames-to-video", "WanImageToVideoPipeline", "controlled_videos.wan_frames")
WAN22_IMAGE = Checkpoint(
    "wan22-image-to-video", "WanImageToVideoPipeline", "videos.wan22_image", {"boundary_ratio": 0.9}
)
HUNYUAN15 = Checkpoint("hunyuan-video15", "HunyuanVideo15Pipeline", "videos.hunyuan15")
LTX = Checkpoint("ltx", "LTXPipeline", "videos.ltx")
LTX2 = Checkpoint("ltx2", "LTX2Pipeline", "videos.ltx2")
WAN21_VACE = Checkpoint("wan21-vace", "WanVACEPipeline", "controlled_videos.wan21_vace")
WAN22_VACE = Checkpoint("wan22-vace", "WanVACEPipeline", "controlled_videos.wan22_vace", {"boundary_ratio": 0.875})
COGVIDEOX_CONTROL = Checkpoint(
    "cogvideox-control", "CogVideoXFunControlPipeline", "controlled_videos.cogvideox_control"
)
COGVIDEOX = Checkpoint("cogvideox", "CogVideoXPipeline", "videos.cogvideox")
LATTE = Checkpoint("latte", "LattePipeline", "videos.latte")
SVD = Checkpoint("svd", "StableVideoDiffusionPipeline", "videos.svd")

_PICTURE = {"image": (32, 32)}
_MASKED = _PICTURE | {"mask_image": (32, 32)}

_IMAGE = {"prompt": "a painting of a green bird", "width": 32, "height": 32, "num_inference_steps": 2, "seed": 7}
_GUIDED_IMAGE = _IMAGE | {"negative_prompt": "blurry, low quality", "guidance_scale": 5.0}
_HALFWAY = {"strength": 0.6, "num_inference_steps": 4}
_KONTEXT = {"width": 128, "height": 128, "extra": {"max_area": 128 * 128, "max_sequence_length": 32}}
_UNBINNED = {"extra": {"use_resolution_binning": False}}

_IMAGES = (
    Family("sdxl", SDXL, "modular", "image", _GUIDED_IMAGE),
    Family("sdxl-image-to-image", SDXL, "modular", "image", _GUIDED_IMAGE | _HALFWAY, _PICTURE),
    Family("sdxl-mask", SDXL, "modular", "image", _GUIDED_IMAGE | _HALFWAY, _MASKED),
    Family("sd3", SD3, "modular", "image", _GUIDED_IMAGE),
    Family("sd3-image-to-image", SD3, "modular", "image", _GUIDED_IMAGE | _HALFWAY, _PICTURE),
    Family("flux", FLUX, "modular", "image", _IMAGE | {"guidance_scale": 3.5}),
    Family("flux-image-to-image", FLUX, "modular", "image", _IMAGE | _HALFWAY, _PICTURE),
    Family("flux-kontext", KONTEXT, "modular", "image", _IMAGE | _KONTEXT, {"image": (128, 128)}),
    Family("flux2-klein", KLEIN, "modular", "image", _IMAGE),
    Family("flux2-klein-image-conditioned", KLEIN, "modular", "image", _IMAGE, {"image": (64, 64)}),
    Family("flux2-klein-references", KLEIN, "modular", "image", _IMAGE, {"image": ((64, 64), (64, 96), (80, 64))}),
    Family("qwen-image", QWEN, "modular", "image", _GUIDED_IMAGE),
    Family("qwen-image-to-image", QWEN, "modular", "image", _GUIDED_IMAGE | _HALFWAY, _PICTURE),
    Family("qwen-mask", QWEN, "modular", "image", _GUIDED_IMAGE | _HALFWAY, _MASKED),
    Family("z-image", ZIMAGE, "modular", "image", _GUIDED_IMAGE),
    Family("z-image-to-image", ZIMAGE, "modular", "image", _GUIDED_IMAGE | _HALFWAY, _PICTURE),
    Family("sd15", SD15, "replay", "image", _GUIDED_IMAGE),
    Family("sd15-image-to-image", SD15, "replay", "image", _GUIDED_IMAGE | _HALFWAY, _PICTURE),
    Family("sd15-mask", SD15, "replay", "image", _GUIDED_IMAGE | _HALFWAY, _MASKED),
    Family("sd15-inpaint", SD15_INPAINT, "replay", "image", _GUIDED_IMAGE, _MASKED),
    Family("sd15-controlnet", SD15_CONTROLNET, "replay", "image", _GUIDED_IMAGE, _PICTURE),
    Family("sdxl-refiner", SDXL_REFINER, "replay", "image", _GUIDED_IMAGE | _HALFWAY, _PICTURE),
    Family("flux-control", FLUX_CONTROL, "replay", "image", _IMAGE, {"control_image": (32, 32)}),
    Family("pixart-sigma", PIXART, "replay", "image", _GUIDED_IMAGE | _UNBINNED),
    Family("sana", SANA, "replay", "image", _GUIDED_IMAGE | _UNBINNED),
    Family("lumina2", LUMINA2, "replay", "image", _GUIDED_IMAGE),
)

_VIDEO = {
    "prompt": "a slow video of waves",
    "width": 32,
    "height": 32,
    "num_frames": 9,
    "num_inference_steps": 2,
    "seed": 7,
}
_GUIDED_VIDEO = _VIDEO | {"negative_prompt": "dark, noisy picture", "guidance_scale": 5.0}
_SHORT = {"extra": {"max_sequence_length": 16}}

_VIDEOS = (
    Family("wan21", WAN21, "modular", "video", _GUIDED_VIDEO),
    Family("wan22", WAN22, "modular", "video", _GUIDED_VIDEO),
    Family("wan-image-to-video", WAN_IMAGE, "modular", "video", _GUIDED_VIDEO, _PICTURE),
    Family("wan-last-frame", WAN_FRAMES, "modular", "video", _GUIDED_VIDEO, _PICTURE | {"last_image": (32, 32)}),
    Family("wan22-image-to-video", WAN22_IMAGE, "modular", "video", _GUIDED_VIDEO, _PICTURE),
    Family("hunyuan-video15", HUNYUAN15, "modular", "video", _GUIDED_VIDEO),
    Family("ltx", LTX, "modular", "video", _GUIDED_VIDEO),
    Family("ltx-image-to-video", LTX, "modular", "video", _GUIDED_VIDEO, _PICTURE),
    Family("ltx2", LTX2, "modular", "video", _GUIDED_VIDEO | _SHORT),
    Family("ltx2-image-to-video", LTX2, "modular", "video", _GUIDED_VIDEO | _SHORT, _PICTURE),
    Family("cogvideox", COGVIDEOX, "replay", "video", _GUIDED_VIDEO | _SHORT),
    Family(
        "cogvideox-video-to-video",
        COGVIDEOX,
        "replay",
        "video",
        {name: value for name, value in (_GUIDED_VIDEO | _SHORT | _HALFWAY).items() if name != "num_frames"},
        videos={"video": (32, 32, 9)},
    ),
    Family(
        "cogvideox-control",
        COGVIDEOX_CONTROL,
        "replay",
        "video",
        {name: value for name, value in (_GUIDED_VIDEO | _SHORT).items() if name != "num_frames"},
        videos={"control_video": (32, 32, 9)},
    ),
    Family("wan21-vace", WAN21_VACE, "replay", "video", _GUIDED_VIDEO, videos={"video": (32, 32, 9)}),
    Family(
        "wan22-vace",
        WAN22_VACE,
        "replay",
        "video",
        _GUIDED_VIDEO,
        {"reference_images": ((32, 32), (24, 32))},
        {"video": (32, 32, 9), "mask_video": (32, 32, 9)},
    ),
    Family("latte", LATTE, "replay", "video", _GUIDED_VIDEO | {"num_frames": 16}),
    Family("svd", SVD, "replay", "video", _VIDEO | {"prompt": "", "num_frames": 3}, _PICTURE),
)

FAMILIES = {family.name: family for family in (*_IMAGES, *_VIDEOS)}
