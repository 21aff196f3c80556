"""A block that listens to the end of each denoising step: progress goes out here and cancel comes in."""

from __future__ import annotations

import copy
from typing import Any, Final

from diffusers.modular_pipelines import LoopSequentialPipelineBlocks, ModularPipelineBlocks, SequentialPipelineBlocks

from diffusion_worker.model.types import OnStep

HOOK_NAME: Final = "diffusion_worker_step"


class StepHook(ModularPipelineBlocks):
    """The last block inside of a loop. It takes and makes no values."""

    def __init__(self) -> None:
        super().__init__()
        self.listener: OnStep | None = None

    @property
    def description(self) -> str:
        return "Reports the end of each step."

    def __call__(self, components: Any, block_state: Any, *_args: Any, **indices: Any) -> tuple[Any, Any]:
        if self.listener is not None:
            # `i` counts steps; families that work chunk by chunk count chunks, by `k`.
            index = indices["i"] if "i" in indices else indices["k"]
            self.listener(int(index) + 1, _total(block_state, by_chunk="i" not in indices))
        return components, block_state


def hooked(blocks: Any) -> tuple[Any, StepHook]:
    """A copy of the flat `blocks` with one hook at the end of every loop.

    A copy, because the presets of diffusers hold block instances that all pipelines of the process share: a hook for
    one request would fire for another.
    """
    hook = StepHook()
    copied: dict[str, Any] = {}
    for name, block in blocks.sub_blocks.items():
        own = copy.deepcopy(block)
        if isinstance(own, LoopSequentialPipelineBlocks):
            own.sub_blocks[HOOK_NAME] = hook
        copied[name] = own
    silence(copied)
    return SequentialPipelineBlocks.from_blocks_dict(copied), hook


def silence(blocks: dict[str, Any]) -> None:
    """Switches off the progress bars of blocks and of those inside of them."""
    for block in blocks.values():
        if hasattr(block, "set_progress_bar_config"):
            block.set_progress_bar_config(disable=True)
        if block.sub_blocks:
            silence(block.sub_blocks)


def _total(block_state: Any, *, by_chunk: bool) -> int:
    if by_chunk:
        chunks = getattr(block_state, "num_latent_chunk", None)
        return int(chunks) if chunks is not None else 1
    timesteps = getattr(block_state, "timesteps", None)
    if timesteps is not None:
        return len(timesteps)
    sigmas = getattr(block_state, "sigmas", None)
    return len(sigmas) - 1 if sigmas is not None else int(block_state.num_inference_steps)
