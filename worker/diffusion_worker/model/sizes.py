"""What each role loads of a model, in bytes by component, before any of it is downloaded."""

from __future__ import annotations

from collections.abc import Mapping

from diffusion_worker.model.folder import open_folder
from diffusion_worker.model.source import resolve_model
from diffusionpipeline.words import STAGES, Stage


def sizes_by_stage(
    source: str, id: str, revision: str, *, variant: str = "", allow_pickle: bool = False
) -> Mapping[Stage, Mapping[str, int]]:
    """Of a hub's model what is downloaded, configs included; of a folder the weights alone.

    Raises UnsupportedModel, DownloadFailed, OSError.
    """
    if source == "Hub":
        from diffusion_worker.model.download import Share, sizes
        from diffusion_worker.model.patience import Patience

        return {
            stage: sizes(
                Share(id=id, revision=revision, stages=frozenset({stage}), variant=variant, allow_pickle=allow_pickle),
                patience=Patience(60.0),
            )
            for stage in STAGES
        }
    from diffusion_worker.model.ownership import owned_components

    path = resolve_model(source, id, revision)
    folder = open_folder(path, variant=variant, allow_pickle=allow_pickle)
    owned = owned_components(folder)
    return {
        stage: {name: size for name in sorted(owned[stage]) if (size := folder.weight_bytes(name))} for stage in STAGES
    }
