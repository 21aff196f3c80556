"""Where the ControlNets of a pipeline are: folders that the worker sees, or of a hub's repositories, fetched.

Roles that do not denoise need the config alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffusion_worker.model.adapter_files import Means
from diffusion_worker.model.component_files import Component, fetch_component
from diffusion_worker.model.types import ControlNetFiles, UnsupportedModel


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


def from_hub(one: Named, means: Means, *, whole: bool) -> ControlNetFiles:
    """A ControlNet of a repository: its config and, if `whole`, its weights of a variant, where it has them so.

    What is in the cache is not asked for again. Raises DownloadFailed, UnsupportedModel, OSError (a full disk).
    """
    place = Component(at=one.at, field=f"{one.at}.id", id=one.id, revision=one.revision, subfolder=one.subfolder)
    return ControlNetFiles(one.name, fetch_component(place, means, whole=whole), one.scale)
