"""Which role loads the weights of which component: known from the model's index alone, before any is there."""

from __future__ import annotations

from collections.abc import Mapping

from diffusion_worker.model.cut import Cut, Pieces, find_cut
from diffusion_worker.model.folder import ModelFolder
from diffusion_worker.model.types import UnsupportedModel
from diffusionpipeline.words import STAGES, Stage

Owned = Mapping[Stage, frozenset[str]]
"""Components with files, by the stage that loads them."""


def owned_components(folder: ModelFolder) -> Owned:
    """What each stage loads of a model, whichever way it is cut. Raises UnsupportedModel."""
    cut = find_cut(folder)
    if cut is not None:
        return owned_by_blocks(cut, folder)
    from diffusion_worker.model.kinds import owned_by_kind

    return owned_by_kind(folder)


def owned_by_blocks(cut: Cut, folder: ModelFolder) -> Owned:
    """Of a model that is cut along its blocks. Raises UnsupportedModel."""
    return {stage: _owned(stage, cut, folder) for stage in STAGES}


def declared(stage: Stage, pieces: Pieces, folder: ModelFolder) -> list[str]:
    """Components with files that a stage's blocks declare and the folder's index has."""
    return [name for name in pieces.components(stage) if name in folder.components]


def shell_instead(stage: Stage, cut: Cut) -> frozenset[str]:
    """Those of them that a shell will do for."""
    return cut.family.shell_instead.get(stage, frozenset())


def _owned(stage: Stage, cut: Cut, folder: ModelFolder) -> frozenset[str]:
    workflows = [cut.pieces(triggers) for triggers in cut.workflows.values()]
    named = {name for pieces in workflows for name in declared(stage, pieces, folder)}
    owned = frozenset(named - shell_instead(stage, cut))
    if stage is not Stage.ENCODE and not any(folder.is_module(name) for name in owned):
        raise UnsupportedModel(
            f"{folder.path}: the model index has none of the components that {stage} computes with: "
            f"{', '.join(sorted(named)) or 'its blocks declare none'}"
        )
    return owned
