"""A denoising loop of blocks, run step by step: between two steps it is told how far it is, and may be parked.

A loop's own code counts and calls `loop_step`; that method alone is replaced. To go on from a checkpoint the blocks
before the loop run again, as does the loop, whose finished steps then do nothing until the one at which the state is
put back.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final, TypedDict, cast

import torch
from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.modular_pipelines import LoopSequentialPipelineBlocks
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from diffusion_worker.model.checkpoint import Beginning, restore
from diffusion_worker.model.driving import Driver
from diffusion_worker.model.types import RESUME, ModelError

_BLOCK_STATE: Final = "block_state"


class Resume(TypedDict):
    """A denoising after `step` steps: what goes on from there."""

    step: int
    generator: torch.Generator
    state: Mapping[str, Any]


class Parked(BaseException):
    """Ends a denoising at a step. A BaseException, for blocks log Exceptions."""

    def __init__(self, resume: Resume) -> None:
        super().__init__()
        self.resume = resume


class Walk:
    """One denoising through its loop."""

    def __init__(self, driver: Driver, generator: torch.Generator, resume: Resume | None) -> None:
        self._driver = driver
        self._generator = generator
        self._resume = resume
        self._done = resume["step"] if resume else 0
        self._beginning: Beginning | None = None

    def step(self, own: Any, components: Any, block_state: Any, indices: Mapping[str, Any]) -> tuple[Any, Any]:
        """One `loop_step`, of which `own` is the block's. Raises Parked, and what the driver raises."""
        # `i` counts steps; families that work chunk by chunk count chunks, by `k`.
        index = int(indices["i"] if "i" in indices else indices["k"])
        if self._beginning is None:
            self._beginning = Beginning(_stateful(components, block_state))
        if index < self._done:
            return components, block_state
        if self._resume is not None:
            restore(_stateful(components, block_state), self._resume["state"], _device_of(block_state))
            self._generator.set_state(self._resume["generator"].get_state())
            self._resume = None
        components, block_state = own(components, block_state, **indices)
        steps = _total(block_state, by_chunk="i" not in indices)
        checkpoint = partial(self._checkpoint, index + 1, components, block_state)
        if self._driver.step(index + 1, steps, checkpoint) and index + 1 < steps:
            raise Parked(checkpoint())
        return components, block_state

    def _checkpoint(self, step: int, components: Any, block_state: Any) -> Resume:
        assert self._beginning is not None
        objects = _stateful(components, block_state)
        generator = torch.Generator("cpu")
        generator.set_state(self._generator.get_state())
        # What a step of the loop leaves for itself alone is not kept: noise predictions, scaled latents.
        state = self._beginning.difference(objects, keep_new=frozenset(objects) - {_BLOCK_STATE})
        return {"step": step, "generator": generator, "state": state}


class Place:
    """Whose walk it is just now, for the loops of one pipe."""

    def __init__(self) -> None:
        self.walk: Walk | None = None

    def take_over(self, loop: Any) -> None:
        """Has the walk make the loop's steps."""
        own = loop.loop_step

        def loop_step(components: Any, block_state: Any, **indices: Any) -> tuple[Any, Any]:
            assert self.walk is not None, "a loop is only run for a walk"
            return self.walk.step(own, components, block_state, indices)

        loop.loop_step = loop_step


def can_park(blocks: Any) -> bool:
    """Whether a denoising of these flat blocks can be parked: it is one loop, so that a step says where it stands."""
    return sum(isinstance(block, LoopSequentialPipelineBlocks) for block in blocks.sub_blocks.values()) == 1


def resume_of(values: Mapping[str, object]) -> Resume | None:
    """The checkpoint in a stage's input, if there is one. Raises ModelError if it is none."""
    given = values.get(RESUME)
    if given is None:
        return None
    if not isinstance(given, dict) or given.keys() != Resume.__required_keys__:
        raise ModelError("the input's checkpoint is not what a denoising of this model makes")
    return cast(Resume, given)


def _stateful(components: Any, block_state: Any) -> dict[str, Any]:
    """By name, whatever a step may leave something in for the next one."""
    stateful = (SchedulerMixin, BaseGuidance)
    found = {name: one for name, one in components.components.items() if isinstance(one, stateful)}
    return {_BLOCK_STATE: block_state, **found}


def _device_of(block_state: Any) -> torch.device:
    devices = (value.device for value in vars(block_state).values() if isinstance(value, torch.Tensor))
    return next(devices, torch.device("cpu"))


def _total(block_state: Any, *, by_chunk: bool) -> int:
    if by_chunk:
        chunks = getattr(block_state, "num_latent_chunk", None)
        return int(chunks) if chunks is not None else 1
    timesteps = getattr(block_state, "timesteps", None)
    if timesteps is not None:
        return len(timesteps)
    sigmas = getattr(block_state, "sigmas", None)
    return len(sigmas) - 1 if sigmas is not None else int(block_state.num_inference_steps)
