"""A component that lies by itself in a folder of a hub's repository: its config, and its weights where needed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from diffusion_worker.model.adapter_files import Means, obtain, share_of
from diffusion_worker.model.download import Download
from diffusion_worker.model.types import DownloadFailed
from diffusion_worker.model.weightfiles import weights_of

CONFIG_FILE: Final = "config.json"


@dataclass(frozen=True, kw_only=True)
class Component:
    """Where one is. `at`: the resource's field that names it; `field`: the one that names where in it."""

    at: str
    field: str
    id: str
    revision: str = ""
    subfolder: str = ""
    """Empty: the root."""


def fetch_component(one: Component, means: Means, *, whole: bool, whole_first: bool = False) -> Path:
    """Its folder, with its config and, if `whole`, its weights of the variant asked for, where it has them so.

    `whole_first`: as transformers reads what it finds. What is in the cache is not asked for again.
    Raises DownloadFailed, UnsupportedModel, OSError (a full disk).
    """
    prefix = f"{one.subfolder}/" if one.subfolder else ""

    def get(asked: Download, *, local: bool) -> Path | None:
        commit = asked.snapshot([prefix + CONFIG_FILE], local=local)
        folder = commit / one.subfolder
        if not (folder / CONFIG_FILE).is_file():
            if local:
                return None
            raise DownloadFailed(f"{one.field}: repository {asked.name} has no {prefix}{CONFIG_FILE}")
        if not whole:
            return folder
        there = [file.name for file in folder.iterdir()] if local else _names(asked.listing(commit), prefix)
        what = f"{one.at}: {asked.name}"
        found = weights_of(what, there, variant=means.variant, allow_pickle=means.allow_pickle, whole_first=whole_first)
        if found is None or found.missing:
            if local:
                return None
            raise DownloadFailed(f"{one.field}: repository {asked.name} lacks weights in {one.subfolder or 'its root'}")
        asked.snapshot([prefix + name for name in (CONFIG_FILE, *found.files, *found.indexes)], local=local)
        return folder

    return obtain(one.at, share_of(one.id, one.revision), get, means)


def _names(listing: Iterable[str], prefix: str) -> list[str]:
    """Of the files in one folder of a repository."""
    return [path.removeprefix(prefix) for path in listing if path.startswith(prefix) and "/" not in path[len(prefix) :]]
