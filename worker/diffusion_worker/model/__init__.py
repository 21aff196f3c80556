"""A diffusers model cut by role: encode, denoise and decode as three calls that may run in three processes.

Importing this package costs nothing; torch and diffusers come in with `load_model`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffusion_worker.model.folder import identify
from diffusion_worker.model.source import resolve_model
from diffusion_worker.model.types import (
    NO_ADAPTERS,
    AdapterFile,
    AdapterFiles,
    Control,
    ControlNetFiles,
    DownloadFailed,
    InvalidRequest,
    IPAdapter,
    IPAdapterFiles,
    Media,
    ModelError,
    OnStep,
    Parameters,
    RoleModel,
    SchedulerKind,
    StageModel,
    StepCancelled,
    UnsupportedModel,
    Values,
    Wanted,
)
from diffusionpipeline.words import Stage

if TYPE_CHECKING:
    from diffusion_worker.model.beside import BaseModel

__all__ = [
    "NO_ADAPTERS",
    "AdapterFile",
    "AdapterFiles",
    "Control",
    "ControlNetFiles",
    "DownloadFailed",
    "IPAdapter",
    "IPAdapterFiles",
    "InvalidRequest",
    "Media",
    "ModelError",
    "OnStep",
    "Parameters",
    "RoleModel",
    "SchedulerKind",
    "StageModel",
    "StepCancelled",
    "UnsupportedModel",
    "Values",
    "Wanted",
    "identify",
    "load_model",
    "resolve_model",
]


def load_model(
    *,
    path: Path,
    stages: frozenset[Stage],
    dtype: str,
    device: str,
    variant: str = "",
    allow_pickle: bool = False,
    adapters: AdapterFiles = NO_ADAPTERS,
    control_nets: Sequence[ControlNetFiles] = (),
    ip_adapters: Sequence[IPAdapterFiles] = (),
    schedulers: Sequence[SchedulerKind] = (),
    vae_tiling: bool = False,
) -> RoleModel:
    """Loads the weights that `stages` need, and no others, what `adapters` have for these, `control_nets` and
    `ip_adapters` beside; makes `schedulers`.

    Cuts along the model's blocks where diffusers has sound ones, else by capture and replay of the classic pipeline.
    Raises UnsupportedModel, which names what is missing.
    """
    from diffusion_worker.model.cut import find_cut
    from diffusion_worker.model.folder import check_folder, open_folder, quieten
    from diffusion_worker.model.modular import ModularModel

    quieten()
    folder = open_folder(path, variant=variant, allow_pickle=allow_pickle)
    check_folder(folder)
    if find_cut(folder) is not None:
        way: Callable[..., BaseModel] = ModularModel
    else:
        from diffusion_worker.model.replay import ReplayModel

        way = ReplayModel
    model = way(
        folder,
        stages=stages,
        dtype=dtype,
        device=device,
        allow_pickle=allow_pickle,
        adapters=adapters,
        schedulers=schedulers,
        vae_tiling=vae_tiling,
    )
    if not control_nets and not ip_adapters:
        return model
    from diffusion_worker.model.beside import Options
    from diffusion_worker.model.extended import ExtendedModel

    options = Options(
        dtype=dtype, device=device, allow_pickle=allow_pickle, schedulers=schedulers, vae_tiling=vae_tiling
    )
    return ExtendedModel(model, options, control_nets=control_nets, ip_adapters=ip_adapters)
