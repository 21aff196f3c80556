"""Where the files of a pipeline's listed adapters are: paths that the worker sees, or a hub's repositories, fetched."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import logging as hub_logging

from diffusion_worker.model.download import Download, Share
from diffusion_worker.model.patience import Patience, PatientClient
from diffusion_worker.model.types import AdapterFile, DownloadFailed, UnsupportedModel
from diffusionpipeline.words import Stage

_FIELDS: Final = ("model.id:", "model.revision:")


@dataclass(frozen=True, kw_only=True)
class Means:
    """How weights beside a model's own come of a hub. `offline`: nothing may; None: as the hub's library says."""

    patience_seconds: float
    paused: Callable[[], None] = lambda: None
    variant: str = ""
    allow_pickle: bool = False
    endpoint: str = ""
    """Empty: the hub's own."""
    cache: Path | None = None
    """None: the hub's own."""
    offline: bool | None = None


def at_path(name: str, path: str, file: str, scale: float) -> AdapterFile:
    """An adapter that is a file, or in a folder. Raises UnsupportedModel."""
    place = Path(path)
    if not place.exists():
        raise UnsupportedModel(f"model.adapters[{name}].id: there is neither file nor folder {place}: mount it")
    return AdapterFile(name, place, file, scale)


def from_hub(
    name: str,
    share: Share,
    file: str,
    scale: float,
    means: Means,
) -> AdapterFile:
    """An adapter of the repository that `share` names for any stages: its safetensors files, or `file` alone.

    What is in the cache is not asked for again. Raises DownloadFailed, OSError (a full disk).
    """

    def get(asked: Download, *, local: bool) -> Path | None:
        found = asked.snapshot([file or "*.safetensors"], local=local)
        return found if not local or ((found / file).is_file() if file else any(found.glob("*.safetensors"))) else None

    at = f"model.adapters[{name}]"
    found = obtain(at, share, get, means)
    if file and not (found / file).is_file():
        raise DownloadFailed(f"{at}.file: repository {share.id} has no {file}")
    return AdapterFile(name, found, file, scale)


class Get(Protocol):
    """Fetches what is wanted, or with `local` looks for it in the cache; None: not all is there."""

    def __call__(self, asked: Download, *, local: bool) -> Path | None: ...


def obtain(at: str, share: Share, get: Get, means: Means) -> Path:
    """What `get` finds in the cache, else fetches. `at`: the resource's field that names the repository.

    Raises DownloadFailed, OSError (a full disk).
    """
    hub_logging.set_verbosity(logging.CRITICAL)
    cache = means.cache or Path(constants.HF_HUB_CACHE)
    asked = Download(share, lambda done, total: None, means.endpoint or constants.ENDPOINT, cache)
    try:
        there = get(asked, local=True)
    except LocalEntryNotFoundError:
        there = None
    if there is not None:
        return there
    if constants.is_offline_mode() if means.offline is None else means.offline:
        raise DownloadFailed(
            f"{at}: {cache} lacks {asked.name}, and nothing may be downloaded (downloadPolicy Never, "
            "or HF_HUB_OFFLINE): put it there, or name it by source Path"
        )
    patience = Patience(means.patience_seconds, paused=means.paused)
    huggingface_hub.set_client_factory(lambda: PatientClient(patience))
    try:
        found = asked.patiently(patience, partial(get, asked, local=False))
    except DownloadFailed as error:
        raise DownloadFailed(_of(at, str(error))) from error
    if found is None:
        raise DownloadFailed(f"{at}.id: repository {asked.name} lacks some of it")
    return found


def share_of(id: str, revision: str) -> Share:
    """A repository, for whichever role."""
    return Share(id=id, revision=revision, stages=frozenset(Stage))


def _of(at: str, why: str) -> str:
    for field in _FIELDS:
        why = why.replace(field, field.replace("model.", f"{at}."))
    return why
