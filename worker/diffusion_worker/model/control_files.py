"""Where the ControlNets of a pipeline are: folders that the worker sees, or of a hub's repositories, fetched.

Roles that do not denoise need the config alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from diffusion_worker.model.adapter_files import obtain, share_of
from diffusion_worker.model.controls import CONFIG_FILE
from diffusion_worker.model.download import Download
from diffusion_worker.model.patience import Patience
from diffusion_worker.model.types import ControlNetFiles, DownloadFailed, UnsupportedModel
from diffusion_worker.model.weightfiles import weights_of


@dataclass(frozen=True, kw_only=True)
class Named:
    """A ControlNet as the resource names it. `id`: a folder, or a repository; `subfolder` of it, or empty."""

    name: str
    id: str
    revision: str = ""
    subfolder: str = ""
    scale: float = 1.0

    @property
    def at(self) -> str:
        """The resource's field."""
        return f"model.controlNets[{self.name}]"


def at_path(one: Named) -> ControlNetFiles:
    """A ControlNet in a folder. Raises UnsupportedModel."""
    place = Path(one.id, one.subfolder)
    if not place.is_dir():
        raise UnsupportedModel(f"{one.at}.id: there is no folder {place}: mount it into the workers")
    return ControlNetFiles(one.name, place, one.scale)


def from_hub(
    one: Named,
    *,
    whole: bool,
    variant: str,
    allow_pickle: bool,
    patience_seconds: float,
    paused: Callable[[], None] = lambda: None,
    endpoint: str = "",
    cache: Path | None = None,
    offline: bool | None = None,
) -> ControlNetFiles:
    """A ControlNet of a repository: its config and, if `whole`, its weights of `variant`, where it has them so.

    What is in the cache is not asked for again. Raises DownloadFailed, UnsupportedModel, OSError (a full disk).
    """
    prefix = f"{one.subfolder}/" if one.subfolder else ""

    def get(asked: Download, *, local: bool) -> Path | None:
        commit = asked.snapshot([prefix + CONFIG_FILE], local=local)
        folder = commit / one.subfolder
        if not (folder / CONFIG_FILE).is_file():
            if local:
                return None
            raise DownloadFailed(f"{one.at}.id: repository {asked.name} has no {prefix}{CONFIG_FILE}")
        if not whole:
            return folder
        there = [file.name for file in folder.iterdir()] if local else _names(asked.listing(commit), prefix)
        found = weights_of(f"{one.at}: {asked.name}", there, variant=variant, allow_pickle=allow_pickle)
        if found is None or found.missing:
            if local:
                return None
            raise DownloadFailed(f"{one.at}.id: repository {asked.name} lacks weights in {prefix or 'its root'}")
        asked.snapshot([prefix + name for name in (CONFIG_FILE, *found.files, *found.indexes)], local=local)
        return folder

    patience = Patience(patience_seconds, paused=paused)
    found = obtain(one.at, share_of(one.id, one.revision), get, patience, endpoint, cache, offline=offline)
    return ControlNetFiles(one.name, found, one.scale)


def _names(listing: Iterable[str], prefix: str) -> list[str]:
    """Of the files in one folder of a repository."""
    return [path.removeprefix(prefix) for path in listing if path.startswith(prefix) and "/" not in path[len(prefix) :]]
