"""Where the ControlNets of a pipeline are: folders that the worker sees, or of a hub's repositories, fetched.

Roles that do not denoise need the config alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diffusion_worker.model.component_files import Component, Means, fetch_component
from diffusion_worker.model.patience import Patience
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
    found = fetch_component(
        Component(at=one.at, field=f"{one.at}.id", id=one.id, revision=one.revision, subfolder=one.subfolder),
        Means(patience=Patience(patience_seconds, paused=paused), endpoint=endpoint, cache=cache, offline=offline),
        whole=whole,
        variant=variant,
        allow_pickle=allow_pickle,
    )
    return ControlNetFiles(one.name, found, one.scale)
