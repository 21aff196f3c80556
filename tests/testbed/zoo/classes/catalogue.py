"""The classes that are tried."""

from __future__ import annotations

from testbed.zoo.classes.kind import Tried

_IMAGE = ("image",)
_MASKED = ("image", "mask_image")
_CONTROL = ("control_image",)
_SIZE = {"width": 32, "height": 32}
_UNBINNED = _SIZE | {"use_resolution_binning": False}
_SHORT = _SIZE | {"max_sequence_length": 16}

_SD15, _SDXL, _SD3, _FLUX = ("images.sd15",), ("images.sdxl",), ("images.sd3",), ("images.flux",)
_QWEN, _ZIMAGE, _SANA = ("images.qwen",), ("images.zimage",), ("images.sana",)
_CONTROLLED = "classes.controls.unet"


def _of_sd15() -> tuple[Tried, ...]:
    led = (*_SD15, _CONTROLLED)
    edits = (*_SD15, "classes.unets.edits")
    return (
        Tried("StableDiffusionPipeline", _SD15, _SIZE),
        Tried("StableDiffusionImg2ImgPipeline", _SD15, _SIZE, _IMAGE),
        Tried("StableDiffusionInpaintPipeline", ("guided_by_pictures.sd15_inpaint",), _SIZE, _MASKED),
        Tried("StableDiffusionControlNetPipeline", led, _SIZE, _IMAGE),
        Tried("StableDiffusionControlNetImg2ImgPipeline", led, _SIZE, (*_IMAGE, *_CONTROL)),
        Tried("StableDiffusionControlNetInpaintPipeline", led, _SIZE, (*_MASKED, *_CONTROL)),
        Tried("StableDiffusionControlNetXSPipeline", (*_SD15, "classes.controls.crossing"), _SIZE, _IMAGE),
        Tried("StableDiffusionPAGPipeline", _SD15, _SIZE),
        Tried("StableDiffusionPAGImg2ImgPipeline", _SD15, _SIZE, _IMAGE),
        Tried("StableDiffusionPAGInpaintPipeline", _SD15, _SIZE, _MASKED),
        Tried("StableDiffusionControlNetPAGPipeline", led, _SIZE, _IMAGE),
        Tried("StableDiffusionControlNetPAGInpaintPipeline", led, _SIZE, (*_MASKED, *_CONTROL)),
        Tried("StableDiffusionAdapterPipeline", (*_SD15, "classes.controls.adapter"), _SIZE, _IMAGE),
        Tried("StableDiffusionInstructPix2PixPipeline", edits, _SIZE, _IMAGE),
        Tried("StableDiffusionPanoramaPipeline", (*_SD15, "classes.unets.ddim"), _SIZE),
        Tried("StableDiffusionSAGPipeline", (*_SD15, "classes.unets.ddim"), _SIZE),
        Tried("LatentConsistencyModelPipeline", (*_SD15, "classes.unets.lcm"), _SIZE),
        Tried("LatentConsistencyModelImg2ImgPipeline", (*_SD15, "classes.unets.lcm"), _SIZE, _IMAGE),
        Tried("SemanticStableDiffusionPipeline", (*_SD15, "classes.unets.ddim"), _SIZE),
        Tried("StableDiffusionImageVariationPipeline", (*_SD15, "classes.unets.eyes"), _SIZE, _IMAGE),
        Tried("CycleDiffusionPipeline", (*_SD15, "classes.unets.ddim"), _SIZE | {"source_prompt": "a red fox"}, _IMAGE),
        Tried("StableDiffusionLDM3DPipeline", (*_SD15, "classes.unets.ldm3d"), _SIZE),
        Tried(
            "StableDiffusionAttendAndExcitePipeline",
            (*_SD15, "classes.unets.ddim"),
            _SIZE,
            call={"token_indices": [2], "max_iter_to_alter": 0, "attn_res": (4, 4)},
        ),
        Tried("AnimateDiffPipeline", (*_SD15, "classes.controls.motion"), _SIZE),
        Tried(
            "AnimateDiffPAGPipeline", (*_SD15, "classes.controls.motion"), _SIZE, config={"pag_applied_layers": "mid"}
        ),
    )


def _of_sdxl() -> tuple[Tried, ...]:
    led, union = (*_SDXL, _CONTROLLED), (*_SDXL, "classes.controls.union")
    mode = _SIZE | {"control_mode": 0}
    return (
        Tried("StableDiffusionXLPipeline", _SDXL, _SIZE),
        Tried("StableDiffusionXLImg2ImgPipeline", _SDXL, _SIZE, _IMAGE),
        Tried("StableDiffusionXLInpaintPipeline", _SDXL, _SIZE, _MASKED),
        Tried("StableDiffusionXLInstructPix2PixPipeline", (*_SDXL, "classes.unets.edits"), _SIZE, _IMAGE),
        Tried("StableDiffusionXLControlNetPipeline", led, _SIZE, _IMAGE),
        Tried("StableDiffusionXLControlNetImg2ImgPipeline", led, _SIZE, (*_IMAGE, *_CONTROL)),
        Tried("StableDiffusionXLControlNetInpaintPipeline", led, _SIZE, (*_MASKED, *_CONTROL)),
        Tried("StableDiffusionXLControlNetUnionPipeline", union, mode, _CONTROL),
        Tried("StableDiffusionXLControlNetUnionImg2ImgPipeline", union, mode, (*_IMAGE, *_CONTROL)),
        Tried("StableDiffusionXLControlNetUnionInpaintPipeline", union, mode, (*_MASKED, *_CONTROL)),
        Tried("StableDiffusionXLControlNetXSPipeline", (*_SDXL, "classes.controls.crossing"), _SIZE, _IMAGE),
        Tried("StableDiffusionXLAdapterPipeline", (*_SDXL, "classes.controls.adapter"), _SIZE, _IMAGE),
        Tried("StableDiffusionXLPAGPipeline", _SDXL, _SIZE),
        Tried("StableDiffusionXLPAGImg2ImgPipeline", _SDXL, _SIZE, _IMAGE),
        Tried("StableDiffusionXLPAGInpaintPipeline", _SDXL, _SIZE, _MASKED),
        Tried("StableDiffusionXLControlNetPAGPipeline", led, _SIZE, _IMAGE),
        Tried("StableDiffusionXLControlNetPAGImg2ImgPipeline", led, _SIZE, (*_IMAGE, *_CONTROL)),
        Tried("AnimateDiffSDXLPipeline", (*_SDXL, "classes.controls.motion"), _SIZE),
    )


def _of_sd3() -> tuple[Tried, ...]:
    led = (*_SD3, "classes.controls.sd3")
    inpainting = (*_SD3, "classes.controls.sd3_inpainting")
    return (
        Tried("StableDiffusion3Pipeline", _SD3, _SIZE),
        Tried("StableDiffusion3Img2ImgPipeline", _SD3, _SIZE, _IMAGE),
        Tried("StableDiffusion3InpaintPipeline", (*_SD3, "classes.pictures.sd3_wide"), _SIZE, _MASKED),
        Tried("StableDiffusion3ControlNetPipeline", led, _SIZE, _CONTROL),
        Tried("StableDiffusion3ControlNetInpaintingPipeline", inpainting, _SIZE, ("control_image", "control_mask")),
        Tried("StableDiffusion3PAGPipeline", _SD3, _SIZE),
        Tried("StableDiffusion3PAGImg2ImgPipeline", _SD3, _SIZE, _IMAGE),
    )


def _of_flux() -> tuple[Tried, ...]:
    led, control = (*_FLUX, "classes.controls.flux"), ("guided_by_pictures.flux_control",)
    fill = (*_FLUX, "classes.pictures.flux_fill")
    kontext = ("images.kontext",)
    chroma = ("classes.pictures.chroma",)
    large = {"width": 128, "height": 128, "max_area": 128 * 128, "max_sequence_length": 32}
    return (
        Tried("FluxPipeline", _FLUX, _SHORT),
        Tried("FluxImg2ImgPipeline", _FLUX, _SHORT, _IMAGE),
        Tried("FluxInpaintPipeline", _FLUX, _SHORT, _MASKED),
        Tried("FluxFillPipeline", fill, _SHORT, _MASKED),
        Tried("FluxControlPipeline", control, _SHORT, _CONTROL),
        Tried("FluxControlImg2ImgPipeline", control, _SHORT, (*_IMAGE, *_CONTROL)),
        Tried("FluxControlInpaintPipeline", control, _SHORT, (*_MASKED, *_CONTROL)),
        Tried("FluxControlNetPipeline", led, _SHORT, _CONTROL),
        Tried("FluxControlNetImg2ImgPipeline", led, _SHORT, (*_IMAGE, *_CONTROL)),
        Tried("FluxControlNetInpaintPipeline", led, _SHORT, (*_MASKED, *_CONTROL)),
        Tried("FluxKontextPipeline", kontext, large, _IMAGE),
        Tried("FluxKontextInpaintPipeline", kontext, large, _MASKED),
        Tried("ChromaPipeline", chroma, _SHORT),
        Tried("ChromaImg2ImgPipeline", chroma, _SHORT, _IMAGE),
        Tried("BriaPipeline", ("classes.pictures.bria",), _SHORT),
        Tried("OvisImagePipeline", ("classes.pictures.ovis",), _SHORT),
        Tried(
            "Flux2KleinPipeline", ("images.klein",), _SHORT | {"width": 64, "height": 64}, config={"is_distilled": True}
        ),
        Tried("Flux2KleinInpaintPipeline", ("images.klein",), _SHORT, _MASKED, config={"is_distilled": True}),
        Tried("Flux2KleinKVPipeline", ("images.klein",), _SHORT | {"width": 64, "height": 64}, _IMAGE),
    )


def _of_others() -> tuple[Tried, ...]:
    two = {"num_inference_steps": 2}
    sprint = (*_SANA, "classes.pictures.sprint")
    return (
        Tried("QwenImagePipeline", _QWEN, _SIZE),
        Tried("QwenImageImg2ImgPipeline", _QWEN, _SIZE, _IMAGE),
        Tried("QwenImageInpaintPipeline", _QWEN, _SIZE, _MASKED),
        Tried("QwenImageEditInpaintPipeline", ("edited_pictures.qwen_edit",), _SIZE, _MASKED),
        Tried("QwenImageControlNetPipeline", (*_QWEN, "classes.controls.qwen"), _SIZE, _CONTROL),
        Tried(
            "QwenImageControlNetInpaintPipeline",
            (*_QWEN, "classes.controls.qwen_inpaint"),
            _SIZE,
            ("control_image", "control_mask"),
        ),
        Tried("ZImagePipeline", _ZIMAGE, _SHORT),
        Tried("ZImageImg2ImgPipeline", _ZIMAGE, _SHORT, _IMAGE),
        Tried("ZImageInpaintPipeline", _ZIMAGE, _SHORT, _MASKED),
        Tried("ZImageControlNetPipeline", (*_ZIMAGE, "classes.pictures.z_control"), _SHORT, _CONTROL),
        Tried("SanaPipeline", _SANA, _UNBINNED),
        Tried("SanaSprintPipeline", sprint, _UNBINNED | two),
        Tried("SanaSprintImg2ImgPipeline", sprint, _UNBINNED | two, _IMAGE),
        Tried("SanaPAGPipeline", _SANA, _UNBINNED, config={"pag_applied_layers": "transformer_blocks.0"}),
        Tried("SanaControlNetPipeline", (*_SANA, "classes.controls.sana"), _UNBINNED, _CONTROL),
        Tried("PixArtSigmaPipeline", ("images.pixart",), _UNBINNED),
        Tried("PixArtAlphaPipeline", ("images.pixart",), _UNBINNED),
        Tried("PixArtSigmaPAGPipeline", ("images.pixart",), _UNBINNED, config={"pag_applied_layers": "blocks.1"}),
        Tried("Lumina2Pipeline", ("images.lumina2",), _SIZE),
        Tried("WanPipeline", ("videos.wan21",), _SHORT),
        Tried("WanImageToVideoPipeline", ("videos.wan_image",), _SHORT, _IMAGE),
        Tried("WanVideoToVideoPipeline", ("videos.wan21",), _SHORT, lists={"video": 9}),
        Tried("HunyuanVideo15Pipeline", ("videos.hunyuan15",), _SIZE),
        Tried("LTXPipeline", ("videos.ltx",), _SHORT),
        Tried("LTXImageToVideoPipeline", ("videos.ltx",), _SHORT, _IMAGE),
        Tried("LTXConditionPipeline", ("videos.ltx",), _SHORT, _IMAGE),
        Tried("LTX2Pipeline", ("videos.ltx2",), _SHORT | {"num_frames": 9}),
        Tried("LTX2ImageToVideoPipeline", ("videos.ltx2",), _SHORT | {"num_frames": 9}, _IMAGE),
        Tried("LTX2ConditionPipeline", ("videos.ltx2",), _SHORT | {"num_frames": 9}),
        Tried("LTX2InContextPipeline", ("videos.ltx2",), _SHORT | {"num_frames": 9}),
        Tried("CogVideoXPipeline", ("videos.cogvideox",), _SHORT),
        Tried("CogVideoXVideoToVideoPipeline", ("videos.cogvideox",), _SHORT, lists={"video": 9}),
        Tried("LattePipeline", ("videos.latte",), _SIZE | {"num_frames": 16}),
        Tried("StableVideoDiffusionPipeline", ("videos.svd",), _SIZE | {"num_frames": 3}, _IMAGE),
    )


def _of_more_pictures() -> tuple[Tried, ...]:
    hunyuan = ("classes.pictures.hunyuan_dit",)
    cogview4 = ("classes.pictures.cogview4",)
    amused = ("classes.pictures.amused",)
    marigold = (*_SD15, "classes.unets.edits", "classes.unets.ddim")
    sees = {"default_processing_resolution": 32, "default_denoising_steps": 2}
    return (
        Tried("AuraFlowPipeline", ("classes.pictures.aura_flow",), _SHORT),
        Tried("CogView3PlusPipeline", ("classes.pictures.cogview3",), _SHORT),
        Tried("CogView4Pipeline", cogview4, _SIZE),
        Tried("CogView4ControlPipeline", (*cogview4, "classes.pictures.cogview4_control"), _SIZE, _CONTROL),
        Tried("HunyuanDiTPipeline", hunyuan, _UNBINNED),
        Tried("HunyuanDiTPAGPipeline", hunyuan, _UNBINNED, config={"pag_applied_layers": "blocks.1"}),
        Tried("HunyuanDiTControlNetPipeline", (*hunyuan, "classes.controls.hunyuan"), _UNBINNED, _CONTROL),
        Tried("LuminaPipeline", ("classes.pictures.lumina",), _SIZE | {"negative_prompt": "blurry"}),
        Tried("HiDreamImagePipeline", ("classes.pictures.hidream",), _SHORT),
        Tried("PRXPipeline", ("classes.pictures.prx",), _UNBINNED),
        Tried("HunyuanImagePipeline", ("classes.pictures.hunyuan_image",), _SIZE),
        Tried("DiTPipeline", ("classes.pictures.dit",), _SIZE, call={"class_labels": [1]}),
        Tried("AmusedPipeline", amused, _SIZE),
        Tried("AmusedImg2ImgPipeline", amused, _SIZE, _IMAGE),
        Tried("AmusedInpaintPipeline", amused, _SIZE, _MASKED),
        Tried("Kandinsky3Pipeline", ("classes.unets.kandinsky3",), _SIZE),
        Tried("Kandinsky3Img2ImgPipeline", ("classes.unets.kandinsky3",), _SIZE, _IMAGE),
        Tried("KandinskyV22PriorPipeline", ("classes.unets.kandinsky_prior",)),
        Tried("KandinskyV22PriorEmb2EmbPipeline", ("classes.unets.kandinsky_prior",), pictures=_IMAGE),
        Tried("DDIMPipeline", ("classes.unets.unconditional",)),
        Tried("DDPMPipeline", ("classes.unets.denoising_diffusion",)),
        Tried("ConsistencyModelPipeline", ("classes.unets.consistency",)),
        Tried("LDMPipeline", ("classes.unets.latent_diffusion",)),
        Tried("LDMSuperResolutionPipeline", ("classes.unets.super_resolution",), _SIZE, _IMAGE),
        Tried("IFPipeline", ("classes.unets.deep_floyd",), _SIZE),
        Tried("IFImg2ImgPipeline", ("classes.unets.deep_floyd",), _SIZE, _IMAGE),
        Tried("IFInpaintingPipeline", ("classes.unets.deep_floyd",), _SIZE, _MASKED),
        Tried("IFSuperResolutionPipeline", ("classes.unets.deep_floyd_larger",), _SIZE, _IMAGE),
        Tried("StableDiffusionUpscalePipeline", (*_SD15, "classes.unets.upscale"), _SIZE, _IMAGE),
        Tried("MarigoldDepthPipeline", marigold, _SIZE, _IMAGE, config=sees | {"prediction_type": "depth"}),
        Tried("MarigoldNormalsPipeline", marigold, _SIZE, _IMAGE, config=sees | {"prediction_type": "normals"}),
        Tried("DanceDiffusionPipeline", ("classes.unets.sound",)),
    )


def _of_more_videos() -> tuple[Tried, ...]:
    films = "classes.films."
    moving, led = (*_SD15, "classes.controls.motion"), (*_SD15, "classes.controls.motion", _CONTROLLED)
    skyreels = (films + "skyreels_forcing",)
    small = _SHORT | {"num_frames": 5}
    return (
        Tried("AnimateDiffVideoToVideoPipeline", moving, _SIZE, lists={"video": 9}),
        Tried("AnimateDiffControlNetPipeline", led, _SIZE, lists={"conditioning_frames": 9}),
        Tried("TextToVideoSDPipeline", (*_SD15, "classes.unets.text_to_video"), _SIZE | {"num_frames": 5}),
        Tried("VideoToVideoSDPipeline", (*_SD15, "classes.unets.text_to_video"), _SIZE, lists={"video": 9}),
        Tried("MochiPipeline", (films + "mochi",), small),
        Tried("AllegroPipeline", (films + "allegro",), _SHORT | {"num_frames": 8}, tiled=True),
        Tried("HunyuanVideoPipeline", (films + "hunyuan",), _SIZE | {"num_frames": 5}),
        Tried("HunyuanSkyreelsImageToVideoPipeline", (films + "skyreels_image",), _SIZE | {"num_frames": 5}, _IMAGE),
        Tried("SkyReelsV2Pipeline", (films + "skyreels",), small),
        Tried("SkyReelsV2ImageToVideoPipeline", (films + "skyreels_of_images",), small, _IMAGE),
        Tried("SkyReelsV2DiffusionForcingPipeline", skyreels, small),
        Tried("SkyReelsV2DiffusionForcingImageToVideoPipeline", skyreels, small, _IMAGE),
        Tried(
            "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
            skyreels,
            small | {"overlap_history": 3, "num_frames": 9, "base_num_frames": 9},
            lists={"video": 5},
        ),
        Tried("WanVACEPipeline", (films + "vace",), small | {"num_frames": 9}),
        Tried("ChronoEditPipeline", (films + "chrono",), small, _IMAGE),
        Tried("LucyEditPipeline", ("videos.wan21", films + "lucy"), small, lists={"video": 5}),
        Tried("SanaVideoPipeline", (films + "sana",), _UNBINNED | {"num_frames": 5}),
        Tried("SanaImageToVideoPipeline", (films + "sana",), _UNBINNED | {"num_frames": 5}, _IMAGE),
        Tried("CogVideoXImageToVideoPipeline", ("videos.cogvideox", films + "cogvideo_of_images"), _SHORT, _IMAGE),
        Tried(
            "CogVideoXFunControlPipeline",
            ("videos.cogvideox", films + "cogvideo_of_images"),
            _SHORT,
            lists={"control_video": 9},
        ),
        Tried("HeliosPipeline", (films + "helios",), _SHORT | {"num_frames": 33}),
        Tried("EasyAnimatePipeline", (films + "easy_animate",), _SIZE | {"num_frames": 5, "negative_prompt": "blurry"}),
    )


CLASSES = {
    tried.pipeline: tried
    for group in (_of_sd15, _of_sdxl, _of_sd3, _of_flux, _of_others, _of_more_pictures, _of_more_videos)
    for tried in group()
}
