"""The schedulers that a zoo model may be loaded with, by its checkpoint: several steps, drawn noise and Karras' among
them, as far as diffusers says that they fit its own."""

from __future__ import annotations

from typing import Any

from testbed.zoo.family import Checkpoint

_MULTISTEP = ("multistep", "DPMSolverMultistepScheduler", {"use_karras_sigmas": True})
_OF_NOISE = (
    _MULTISTEP,
    ("ancestral", "EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
    ("second-order", "HeunDiscreteScheduler", {"use_karras_sigmas": True}),
    ("drawn", "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("linear", "PNDMScheduler", {"skip_prk_steps": True}),
)
_OF_FLOW = (
    ("karras", "FlowMatchEulerDiscreteScheduler", {"use_karras_sigmas": True}),
    ("shifted", "FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": False, "shift": 5.0}),
    ("drawn", "FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
)
_OF_FLOW_IN_STEPS = (
    ("multistep", "DPMSolverMultistepScheduler", {"flow_shift": 5.0}),
    ("single", "DPMSolverSinglestepScheduler", {}),
    ("exponential", "DEISMultistepScheduler", {}),
    ("drawn", "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
)
_BY_CHECKPOINT = {"sd15": _OF_NOISE, "sdxl": _OF_NOISE, "flux": _OF_FLOW, "wan21": _OF_FLOW_IN_STEPS}


def names_for(checkpoint: str) -> list[str]:
    """Of those that there are."""
    return [name for name, _, _ in _BY_CHECKPOINT[checkpoint]]


def kinds_for(checkpoint: Checkpoint) -> list[Any]:
    """All of them, as a model is given them."""
    from diffusion_worker.model import SchedulerKind

    return [SchedulerKind(*one) for one in _BY_CHECKPOINT[checkpoint.name]]


def swap(pipeline: Any, checkpoint: Checkpoint, name: str) -> None:
    """Has diffusers' own pipeline denoise by this one, as diffusers documents it."""
    import diffusers

    for known, class_name, options in _BY_CHECKPOINT[checkpoint.name]:
        if known == name:
            pipeline.scheduler = getattr(diffusers, class_name).from_config(pipeline.scheduler.config, **options)
