"""Folders whose own use is more than a text: a picture to mend, to refine, or to be led by."""

from __future__ import annotations

from diffusers import ControlNetModel, FluxTransformer2DModel

from testbed.zoo import images
from testbed.zoo.family import Components
from testbed.zoo.texts import weights


def sd15_inpaint() -> Components:
    """Its network takes the mask and what is left of the picture beside the latents."""
    latents, mask = 4, 1
    return images.sd15() | {"unet": images.sd15_unet(201, in_channels=2 * latents + mask)}


def sdxl_refiner() -> Components:
    return images.sdxl()


def sd15_controlnet() -> Components:
    components = images.sd15()
    with weights(202):
        controlnet = ControlNetModel.from_unet(components["unet"], conditioning_channels=3).eval()
    return components | {"controlnet": controlnet}


def flux_control() -> Components:
    """Its network takes the control picture's latents beside the others."""
    components = images.flux()
    with weights(203):
        config = {**components["transformer"].config, "in_channels": 32, "out_channels": 16}
        transformer = FluxTransformer2DModel.from_config(config).eval()
    eyes = ("image_encoder", "feature_extractor")
    return {name: one for name, one in components.items() if name not in eyes} | {"transformer": transformer}
