"""What a model that is replayed is made of: its pipelines, and each component's role by what it is.

Roles are told apart by classes and not by names: encoders come from transformers, what has a `decode` decodes, and the
other networks of diffusers denoise.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping
from typing import Any, Final

import diffusers
from diffusers import DiffusionPipeline
from diffusers.pipelines import auto_pipeline
from diffusers.utils import DummyObject

from diffusion_worker.model.classic import image_inputs
from diffusion_worker.model.families import FROM_VIDEO
from diffusion_worker.model.folder import ModelFolder
from diffusion_worker.model.types import UnsupportedModel
from diffusionpipeline.words import Stage

AFTER_DECODERS: Final = ("SafetyChecker", "Vocoder", "VocoderWithBWE")
"""How classes of networks end that look at finished pictures, or make sound of what was decoded."""


def owned_by_kind(folder: ModelFolder) -> Mapping[Stage, frozenset[str]]:
    """Components with weights, by the stage that loads them. Raises UnsupportedModel."""
    return owned_of(folder, roles_of(folder), classes_of(folder))


def owned_of(
    folder: ModelFolder, roles: Mapping[str, Stage], classes: Mapping[str, Any]
) -> dict[Stage, frozenset[str]]:
    """Components with weights, by the stage that loads them, of a folder with these `roles` and `classes`."""
    owned = {stage: frozenset(name for name, role in roles.items() if role is stage) for stage in Stage}
    # An input picture becomes latents before denoising starts, whatever the argument is called.
    owned[Stage.ENCODE] |= {
        name for name in owned[Stage.DECODE] if any(_encodes(one, name) for one in classes.values())
    }
    return owned


def _encodes(pipeline_class: Any, decoder: str) -> bool:
    """Whether the pipeline's own code calls `encode` of this component."""
    owners = (one for one in inspect.getmro(pipeline_class) if one.__module__.startswith("diffusers.pipelines."))
    return any(f"self.{decoder}.encode(" in inspect.getsource(one) for one in owners if one is not DiffusionPipeline)


def classes_of(folder: ModelFolder) -> dict[str, Any]:
    """The pipeline class of the index ("own"), and its siblings for requests with an input, by that input's name."""
    own = getattr(diffusers, folder.pipeline_class, None)
    if own is None:
        raise UnsupportedModel(
            f"{folder.path}: diffusers {diffusers.__version__} has no pipeline {folder.pipeline_class!r}, and no code "
            f"of the model's own is run"
        )
    if isinstance(own, DummyObject):
        lacks = sorted(name for name in own._backends if importlib.util.find_spec(name) is None)
        raise UnsupportedModel(
            f"{folder.path}: {folder.pipeline_class} needs {', '.join(lacks)}, which is not installed"
        )
    if "generator" not in inspect.signature(own.__call__).parameters:
        raise UnsupportedModel(f"{folder.path}: {own.__name__} takes no generator, so its results can't be repeated")
    if image_inputs(own):
        return {"own": own}
    siblings = {
        "mask_image": auto_pipeline._get_task_class(auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING, own.__name__, False),
        "image": auto_pipeline._get_task_class(auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING, own.__name__, False),
        "video": getattr(diffusers, FROM_VIDEO.get(own.__name__, ""), None),
    }
    return {"own": own} | {kind: one for kind, one in siblings.items() if one is not None}


def roles_of(folder: ModelFolder) -> dict[str, Stage]:
    """The stage of each component with weights.

    Raises UnsupportedModel if nothing denoises or decodes.
    """
    roles = {name: _role(folder.component_class(name)) for name in folder.components if folder.is_module(name)}
    for stage in (Stage.DENOISE, Stage.DECODE):
        if stage not in roles.values():
            raise UnsupportedModel(
                f"{folder.path}: {folder.pipeline_class} has no component that can {stage}; it has "
                f"{', '.join(f'{name} ({folder.components[name][1]})' for name in roles) or 'no networks at all'}"
            )
    return roles


def _role(component_class: type) -> Stage:
    if callable(getattr(component_class, "decode", None)):
        return Stage.DECODE
    if component_class.__module__.startswith("diffusers.models."):
        return Stage.DENOISE
    return Stage.DECODE if component_class.__name__.endswith(AFTER_DECODERS) else Stage.ENCODE
