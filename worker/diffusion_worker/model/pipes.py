"""A stage's blocks as a pipeline that can be called, and a store of them, for to build one takes 10 to 20 ms.

One that denoises belongs to one denoising at a time, which may wait in the middle of a step while others compute: it
has blocks of its own, and stand-ins in the place of networks.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.modular_pipelines import LoopSequentialPipelineBlocks, SequentialPipelineBlocks

from diffusion_worker.model.guidance import Gathered, is_guider
from diffusion_worker.model.loops import Place
from diffusion_worker.model.standins import Questions, stand_in

MAX_FREE: Final = 64


@dataclass(frozen=True, eq=False)
class Pipe:
    """`guiders` are as the blocks made them: a request's own are derived from these."""

    pipeline: Any
    guiders: Mapping[str, Any]
    questions: Questions
    place: Place


class Pipes:
    """Those that nobody uses, by what they are for."""

    def __init__(self) -> None:
        self._free: defaultdict[Hashable, list[Pipe]] = defaultdict(list)
        self._count = 0

    @contextmanager
    def take(self, key: Hashable, build: Callable[[], Pipe]) -> Iterator[Pipe]:
        """One for whoever is in the context alone. One that was left by an error is not used again."""
        free = self._free[key]
        if free:
            pipe = free.pop()
            self._count -= 1
        else:
            pipe = build()
        yield pipe
        if self._count >= MAX_FREE:
            self._free.clear()
            self._count = 0
        self._free[key].append(pipe)
        self._count += 1


def build(blocks: Any, make: Callable[[Any], Any], networks: Collection[str], *, guides_in_one: bool) -> Pipe:
    """A pipe of these flat `blocks`. `make` makes a pipeline of blocks; `networks` are those that get a stand-in.

    The blocks are copied, because the presets of diffusers hold instances that all pipelines of the process share.
    """
    questions, place = Questions(), Place()
    copied = {name: copy.deepcopy(block) for name, block in blocks.sub_blocks.items()}
    _silence(copied)
    for block in copied.values():
        if isinstance(block, LoopSequentialPipelineBlocks):
            for name, leaf in list(block.sub_blocks.items()):
                if any(is_guider(spec) for spec in leaf.expected_components):
                    block.sub_blocks[name] = Gathered(leaf, questions, in_one=guides_in_one)
            place.take_over(block)
    pipeline = make(SequentialPipelineBlocks.from_blocks_dict(copied))
    for name in networks:
        network = pipeline.components.get(name)
        if isinstance(network, torch.nn.Module):
            setattr(pipeline, name, stand_in(network, questions))
    guiders = {name: one for name, one in pipeline.components.items() if isinstance(one, BaseGuidance)}
    return Pipe(pipeline, guiders, questions, place)


def _silence(blocks: Mapping[str, Any]) -> None:
    """Switches off the progress bars of blocks and of those inside of them."""
    for block in blocks.values():
        if hasattr(block, "set_progress_bar_config"):
            block.set_progress_bar_config(disable=True)
        if block.sub_blocks:
            _silence(block.sub_blocks)
