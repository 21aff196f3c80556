"""Where the files of a pipeline's listed adapters are: paths that the worker sees, or a hub's repositories, fetched."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import logging as hub_logging

from diffusion_worker.model.download import Download, Share
from diffusion_worker.model.patience import Patience, PatientClient
from diffusion_worker.model.types import AdapterFile, DownloadFailed, UnsupportedModel
from diffusionpipeline.words import Stage

_FIELDS: Final = ("model.id:", "model.revision:")


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
    *,
    patience_seconds: float,
    paused: Callable[[], None] = lambda: None,
    endpoint: str = "",
    cache: Path | None = None,
    offline: bool | None = None,
) -> AdapterFile:
    """An adapter of the repository that `share` names for any stages: its safetensors files, or `file` alone.

    What is in the cache is not asked for again. Raises DownloadFailed, OSError (a full disk).
    """
    hub_logging.set_verbosity(logging.CRITICAL)
    cache = cache or Path(constants.HF_HUB_CACHE)
    asked = Download(share, lambda done, total: None, endpoint or constants.ENDPOINT, cache)
    get = partial(
        huggingface_hub.snapshot_download,
        **asked.common,
        revision=share.revision or None,
        allow_patterns=[file or "*.safetensors"],
        tqdm_class=None,
    )
    try:
        there = Path(get(local_files_only=True))
        if (there / file).is_file() if file else any(there.glob("*.safetensors")):
            return AdapterFile(name, there, file, scale)
    except LocalEntryNotFoundError:
        pass
    if constants.is_offline_mode() if offline is None else offline:
        raise DownloadFailed(
            f"model.adapters[{name}]: {cache} lacks {asked.name}, and nothing may be downloaded (downloadPolicy Never, "
            "or HF_HUB_OFFLINE): put it there, or name it by source Path"
        )
    patience = Patience(patience_seconds, paused=paused)
    huggingface_hub.set_client_factory(lambda: PatientClient(patience))
    try:
        found = Path(asked.patiently(patience, get))
    except DownloadFailed as error:
        raise DownloadFailed(_of_adapter(name, str(error))) from error
    if file and not (found / file).is_file():
        raise DownloadFailed(f"model.adapters[{name}].file: repository {asked.name} has no {file}")
    return AdapterFile(name, found, file, scale)


def share_of(id: str, revision: str) -> Share:
    """A repository, for whichever role."""
    return Share(id=id, revision=revision, stages=frozenset(Stage))


def _of_adapter(name: str, why: str) -> str:
    for field in _FIELDS:
        why = why.replace(field, field.replace("model.", f"model.adapters[{name}]."))
    return why
