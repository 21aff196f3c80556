"""What differs between families of models, as data. How a model is cut is in `cut.py` and the same for all of them.

A family that is missing here is cut by its blocks' own declarations; an entry exists only where those are silent or
wrong. `python -m diffusion_worker.model.check` tells whether a model needs one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from diffusion_worker.model.types import Scalar
from diffusionpipeline.words import Stage

MODULAR_CLASS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ErnieImagePipeline": "ErnieImageModularPipeline",
        "FluxKontextPipeline": "FluxKontextModularPipeline",
        "FluxPipeline": "FluxModularPipeline",
        "HunyuanVideo15ImageToVideoPipeline": "HunyuanVideo15ModularPipeline",
        "HunyuanVideo15Pipeline": "HunyuanVideo15ModularPipeline",
        "LTX2ImageToVideoPipeline": "LTX2ModularPipeline",
        "LTX2Pipeline": "LTX2ModularPipeline",
        "QwenImagePipeline": "QwenImageModularPipeline",
        "StableDiffusion3Pipeline": "StableDiffusion3ModularPipeline",
        "StableDiffusionXLPipeline": "StableDiffusionXLModularPipeline",
        "ZImagePipeline": "ZImageModularPipeline",
    }
)
"""Modular class by the class in `model_index.json`: where diffusers does not find it by itself, and for common ones,
because diffusers imports every pipeline that it has to find it, which doubles a worker's start."""

REPLAY_INSTEAD: Final[Mapping[str, Mapping[str, object]]] = MappingProxyType(
    {
        # The blocks take the VAE for an 8x one and know no expand_timesteps (Wan2.2 TI2V-5B).
        "WanPipeline": {"expand_timesteps": True},
        "WanImageToVideoPipeline": {"expand_timesteps": True},
    }
)
"""Index classes whose blocks are wrong when the index holds these values: they run the other way."""

NEEDED_CONFIG: Final[Mapping[str, Mapping[str, tuple[str, str]]]] = MappingProxyType(
    {
        # Only checkpoints that were trained on two frames tell one's embedding from the other's.
        "WanImage2VideoModularPipeline": {"last_image": ("transformer", "pos_embed_seq_len")},
        "SkyReelsV2ImageToVideoPipeline": {"last_image": ("transformer", "pos_embed_seq_len")},
    }
)
"""By modular or replayed class and input: the component, and the value of its config without which it can't take that
input."""

UNPARKABLE_INPUTS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {"Flux2KleinKVPipeline": frozenset({"image"})}
)
"""Inputs of which a pipeline's network makes something in the first step that all later ones are given, and that is no
tensor."""

UNSPLITTABLE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "WanAnimate2ModularPipeline": "it encodes and decodes with its VAE inside the denoising loop",
        "WanAnimate2DistilledModularPipeline": "it encodes and decodes with its VAE inside the denoising loop",
    }
)
"""Modular classes that can't be cut, and why."""

OPTIONAL_NETWORKS: Final = frozenset({"image_encoder", "safety_checker"})
"""Components that folders have, and that drawing does without: an adapter's eyes, and the judge of what was drawn."""

WORKFLOWS: Final = frozenset(
    {
        "text2image",
        "image2image",
        "img2img",
        "image_conditioned",
        "inpainting",
        "text2video",
        "image2video",
        "flf2v",
    }
)
"""Workflows served. Others (control nets, adapters) need components or inputs that no request carries, or
(image_conditioned_inpainting) make a tensor of one size and mask one of another."""

PICTURES: Final = ("image", "last_image", "mask_image", "control_image", "reference_images")
"""Inputs that are pictures."""

SEVERAL_PICTURES: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "Flux2KleinKVPipeline": frozenset({"image"}),
        "Flux2KleinPipeline": frozenset({"image"}),
        "Flux2Pipeline": frozenset({"image"}),
        "QwenImageEditPlusPipeline": frozenset({"image"}),
        "WanVACEPipeline": frozenset({"reference_images"}),
    }
)
"""Inputs that take several pictures for one result, by the class in `model_index.json`. Annotations don't tell: most
pipelines take a list for a batch, and would make a picture of each."""

OTHER_INPUTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"mask_image": ("control_mask",), "mask_video": ("mask",), "control_video": ("conditioning_frames",)}
)
"""What some pipelines call an input picture or video."""

PICTURES_ALONE: Final = frozenset({"mask_overlay_kwargs"})
"""What decoders take that has them make PIL's pictures alone: what a mask keeps, to lay over the new picture."""

NEEDED_INPUTS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "AnimateDiffControlNetPipeline": frozenset({"conditioning_frames"}),
        "AnimateDiffVideoToVideoControlNetPipeline": frozenset({"video", "conditioning_frames"}),
        "AnimateDiffVideoToVideoPipeline": frozenset({"video"}),
        "CogVideoXFunControlPipeline": frozenset({"control_video"}),
        "CogVideoXVideoToVideoPipeline": frozenset({"video"}),
        "QwenImageControlNetInpaintPipeline": frozenset({"control_image", "control_mask"}),
        "StableDiffusion3ControlNetInpaintingPipeline": frozenset({"control_image", "control_mask"}),
        "WanVideoToVideoPipeline": frozenset({"video"}),
    }
)
"""Inputs that classic pipelines can't do without although they have None for a default."""

FROM_VIDEO: Final[Mapping[str, str]] = MappingProxyType(
    {
        "AnimateDiffPipeline": "AnimateDiffVideoToVideoPipeline",
        "CogVideoXPipeline": "CogVideoXVideoToVideoPipeline",
    }
)
"""The classic pipeline that starts from a video, by the one of the same folder that starts from noise."""

AS_LONG_AS_VIDEO: Final = frozenset({"WanVACEPipeline"})
"""Pipelines that make a video as long and as large as the one that leads them, but must be told how long and large."""

PRESENT_INPUTS: Final = ("prompt", "num_frames")
"""Inputs that every request brings, so that blocks which run only in their absence are never chosen."""

RESERVED_INPUTS: Final = frozenset(
    {
        "generator",
        "output_type",
        "num_images_per_prompt",
        "num_videos_per_prompt",
        "batch_size",
        "dtype",
        "return_dict",
    }
)
"""Declared inputs that this project sets itself: one request makes one file from one seed."""

ALIASES: Final[Mapping[str, str]] = MappingProxyType({"true_cfg_scale": "guidance_scale"})
"""Other names, in `extra`, for a request's fields: Qwen-Image's classic pipeline calls its guidance true_cfg_scale."""

UNTYPED_SCALARS: Final[Mapping[str, type]] = MappingProxyType(
    {
        "clip_skip": int,
        "decode_noise_scale": float,
        "denoising_end": float,
        "denoising_start": float,
        "negative_prompt_2": str,
        "negative_prompt_3": str,
        "prompt_2": str,
        "prompt_3": str,
    }
)
"""Scalar inputs that blocks declare with neither type nor default."""

LARGEST: Final[Mapping[str, int]] = MappingProxyType(
    {"layers": 16, "max_sequence_length": 4096, "max_area": 2**26, "max_new_tokens": 4096}
)
"""Upper bounds of arguments that decide how much memory a request takes."""

FPS_INPUTS: Final = ("frame_rate", "fps")
"""What families call the frames per second that they condition on."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family's departures from what its blocks declare."""

    defaults: Mapping[str, Scalar] = field(default_factory=dict)
    """Request fields to use when neither the request nor the model folder gives them."""
    shell_instead: Mapping[Stage, frozenset[str]] = field(default_factory=dict)
    """Components that a stage declares but of which it reads only config and dtype."""
    guider: Mapping[str, Scalar] = field(default_factory=dict)
    """Arguments for the guider besides the scale, when a request gives a scale."""
    encodes_negative: bool = False
    """Whether a negative prompt must be encoded, guidance or not: the blocks crash without."""
    guides_in_one: bool = False
    """Whether the family's classic pipeline makes guidance's branches one forward: then so do we, and bits agree."""
    packing: int = 1
    """How many latent pixels, along one side, the transformer takes as one token without saying so in its config."""
    layered: bool = False
    """Whether pictures have an alpha channel, and a request makes several: the layers of the one that it brings."""
    fps: int = 16
    """Frames per second of the file, where neither request nor folder says."""


FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {
        "FluxModularPipeline": Family(packing=2),
        "FluxKontextModularPipeline": Family(packing=2),
        "Flux2ModularPipeline": Family(packing=2),
        "Flux2KleinModularPipeline": Family(packing=2),
        "Flux2KleinBaseModularPipeline": Family(packing=2),
        "HeliosModularPipeline": Family(fps=24),
        "HunyuanVideo15ModularPipeline": Family(encodes_negative=True, fps=24),
        "LTXModularPipeline": Family(encodes_negative=True, guides_in_one=True, fps=24),
        "LTX2ModularPipeline": Family(
            defaults={"num_frames": 121},
            shell_instead={Stage.DENOISE: frozenset({"vae", "audio_vae"})},
            guides_in_one=True,
            fps=24,
        ),
        "QwenImageLayeredModularPipeline": Family(layered=True),
        # Classifier-free guidance happens only if a negative prompt was encoded, which may be empty.
        "StableDiffusion3ModularPipeline": Family(defaults={"negative_prompt": ""}, guides_in_one=True),
        "StableDiffusionXLModularPipeline": Family(
            shell_instead={Stage.DENOISE: frozenset({"vae"})}, guides_in_one=True
        ),
        "WanModularPipeline": Family(encodes_negative=True),
        "Wan22ModularPipeline": Family(encodes_negative=True),
        "WanImage2VideoModularPipeline": Family(encodes_negative=True),
        "Wan22Image2VideoModularPipeline": Family(encodes_negative=True),
        # The default guider is disabled, and its formula is not the one that the model was published with.
        "ZImageModularPipeline": Family(guider={"use_original_formulation": True}, guides_in_one=True, packing=2),
    }
)


def family_of(modular_class: str) -> Family:
    """The family of a modular pipeline class; an empty one where nothing is special."""
    return FAMILIES.get(modular_class, Family())


SECOND_SCHEDULERS: Final[Mapping[str, str]] = MappingProxyType({"audio_scheduler": "scheduler"})
"""Components that a folder may lack, and of which a pipeline then makes a copy of another for each request."""


@dataclass(frozen=True, kw_only=True)
class Controlled:
    """What diffusers has for a pipeline that ControlNets lead."""

    network: str
    """The class of such a network."""
    several: str
    """The class that makes one of several."""
    pipelines: Mapping[str, str]
    """The led pipeline, by the input that it is for beside the controls; own: for none."""
    alike: tuple[str, ...]
    """Values of its config that must be those of the network that it leads."""
    together: tuple[str, ...] = ()
    """Values of its config that several must share: pipelines read them of the first, and take them for all."""
    served: Mapping[str, tuple[object, str]] = field(default_factory=dict)
    """The one value of its config that is served, and what it does with others."""
    one_at_a_time: bool = False
    """Whether several pictures are for one and the same network alone."""
    guided_by: str = "guidance_scale"
    """What the led pipeline calls the request's guidance."""


_OF_UNETS: Final = (
    "addition_embed_type",
    "block_out_channels",
    "cross_attention_dim",
    "in_channels",
    "projection_class_embeddings_input_dim",
)
_OF_TRANSFORMERS: Final = ("attention_head_dim", "in_channels", "joint_attention_dim", "num_attention_heads")
_FOR_INPAINTING: Final = "it mends pictures by a mask of its own"

CONTROLLED: Final[Mapping[str, Controlled]] = MappingProxyType(
    {
        "FluxPipeline": Controlled(
            network="FluxControlNetModel",
            several="FluxMultiControlNetModel",
            pipelines={
                "own": "FluxControlNetPipeline",
                "image": "FluxControlNetImg2ImgPipeline",
                "mask_image": "FluxControlNetInpaintPipeline",
            },
            alike=(*_OF_TRANSFORMERS, "pooled_projection_dim"),
            together=("conditioning_embedding_channels",),
        ),
        "QwenImagePipeline": Controlled(
            network="QwenImageControlNetModel",
            several="QwenImageMultiControlNetModel",
            pipelines={"own": "QwenImageControlNetPipeline"},
            alike=_OF_TRANSFORMERS,
            served={"extra_condition_channels": (0, _FOR_INPAINTING)},
            one_at_a_time=True,
            guided_by="true_cfg_scale",
        ),
        "StableDiffusion3Pipeline": Controlled(
            network="SD3ControlNetModel",
            several="SD3MultiControlNetModel",
            pipelines={"own": "StableDiffusion3ControlNetPipeline"},
            alike=(*_OF_TRANSFORMERS, "pooled_projection_dim"),
            together=("force_zeros_for_pooled_projection", "joint_attention_dim"),
            served={
                "extra_conditioning_channels": (0, _FOR_INPAINTING),
                "use_pos_embed": (True, "it takes its positions from the weights of the network that it leads"),
            },
        ),
        "StableDiffusionPipeline": Controlled(
            network="ControlNetModel",
            several="MultiControlNetModel",
            pipelines={
                "own": "StableDiffusionControlNetPipeline",
                "image": "StableDiffusionControlNetImg2ImgPipeline",
                "mask_image": "StableDiffusionControlNetInpaintPipeline",
            },
            alike=_OF_UNETS,
            together=("global_pool_conditions",),
        ),
        "StableDiffusionXLPipeline": Controlled(
            network="ControlNetModel",
            several="MultiControlNetModel",
            pipelines={
                "own": "StableDiffusionXLControlNetPipeline",
                "image": "StableDiffusionXLControlNetImg2ImgPipeline",
                "mask_image": "StableDiffusionXLControlNetInpaintPipeline",
            },
            alike=_OF_UNETS,
            together=("global_pool_conditions",),
        ),
    }
)
"""Pipelines that can have ControlNets beside them, by the class in `model_index.json`."""

TILED: Final = frozenset({"AutoencoderKLAllegro"})
"""Autoencoders that decode in tiles alone, and must be told to."""

FRAMES_AS_IMAGES: Final = frozenset(
    {"ShapEImg2ImgPipeline", "ShapEPipeline", "TextToVideoZeroPipeline", "TextToVideoZeroSDXLPipeline"}
)
"""Pipelines that return the frames of a video, or views of a turning object, as `images`."""
