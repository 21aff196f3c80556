"""Where a model is: one that ships with the worker, a folder, or a repository of a hub, which is fetched."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from diffusion_worker.model.types import Told, UnsupportedModel
from diffusionpipeline.words import STAGES, Stage


def resolve_model(
    source: str,
    id: str,
    revision: str,
    *,
    stages: frozenset[Stage] = frozenset(STAGES),
    variant: str = "",
    allow_pickle: bool = False,
    told: Told = lambda done, total: None,
    patience_seconds: float = 300.0,
    cache_wait_seconds: float = 0.0,
    paused: Callable[[], None] = lambda: None,
) -> Path:
    """The local folder of a model: `source` is Bundled, Path (id is a folder) or Hub (id is owner/name).

    Of a hub's model, what `stages` need is fetched, its folder is named by the commit, and `paused` is called at each
    pause of the download. For the rest see `fetch`.
    Raises UnsupportedModel, DownloadFailed, OSError (a full disk).
    """
    match source:
        case "Bundled":
            root = Path(str(files("diffusion_worker.model") / "bundled"))
            known = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
            if id not in known:
                raise UnsupportedModel(f"model.id: {id!r} is not bundled; known: {', '.join(known)}")
            return root / id
        case "Path":
            path = Path(id).expanduser()
            if path.is_file():
                raise UnsupportedModel(
                    f"model.id: {path} is a file, and a model is a folder: make one of it with `dpipe convert {path} "
                    "DIRECTORY`"
                )
            if not path.is_dir():
                raise UnsupportedModel(f"model.id: there is no folder {path}")
            return path.resolve()
        case "Hub":
            from diffusion_worker.model.download import Share, fetch
            from diffusion_worker.model.patience import Patience

            share = Share(id=id, revision=revision, stages=stages, variant=variant, allow_pickle=allow_pickle)
            patience = Patience(patience_seconds, paused=paused)
            return fetch(share, told=told, patience=patience, wait_seconds=cache_wait_seconds)
        case _:
            raise UnsupportedModel(f"model.source: {source!r} is none of Bundled, Path, Hub")
