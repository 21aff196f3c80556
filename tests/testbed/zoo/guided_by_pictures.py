"""Folders whose own use is more than a text: a picture to mend, to refine, or to be led by."""

from __future__ import annotations

import torch
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
        halved_twice = (16, 32, 32)
        controlnet = ControlNetModel.from_unet(
            components["unet"], conditioning_embedding_out_channels=halved_twice, conditioning_channels=3
        ).eval()
        for zero in (weight for weight in controlnet.parameters() if not weight.any()):
            # A ControlNet begins with zeros, and so as one that says nothing.
            torch.nn.init.normal_(zero, std=0.2)
    return components | {"controlnet": controlnet}


def flux_control() -> Components:
    """Its network takes the control picture's latents beside the others."""
    components = images.flux()
    with weights(203):
        config = {name: value for name, value in components["transformer"].config.items() if name[0] != "_"}
        transformer = FluxTransformer2DModel(**{**config, "in_channels": 32, "out_channels": 16}).eval()
    eyes = ("image_encoder", "feature_extractor")
    return {name: one for name, one in components.items() if name not in eyes} | {"transformer": transformer}
