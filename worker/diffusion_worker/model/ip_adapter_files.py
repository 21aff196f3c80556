"""Where the IP-Adapters of a pipeline are: in folders that the worker sees, or in a hub's repositories, fetched.

Each is a file of weights and the folder of the encoder that looks at its pictures. Encoders need both: what kind of
embedding a picture becomes is told by the weights. Denoisers need the weights alone, decoders neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from diffusion_worker.model.adapter_files import obtain, share_of
from diffusion_worker.model.download import Download
from diffusion_worker.model.patience import Patience
from diffusion_worker.model.types import DownloadFailed, IPAdapterFiles, UnsupportedModel
from diffusion_worker.model.weightfiles import PICKLE_SUFFIXES, weights_of
from diffusionpipeline.words import Stage

_IMAGE_ENCODER: Final = "image_encoder"
_CONFIG: Final = "config.json"


@dataclass(frozen=True, kw_only=True)
class NamedIPAdapter:
    """One as the resource names it. `id`: a folder, or a repository; `file` and `image_encoder` are paths in it."""

    name: str
    id: str
    file: str
    revision: str = ""
    image_encoder: str = ""
    """Empty: `image_encoder` beside the file."""
    scale: float = 1.0

    @property
    def at(self) -> str:
        """The resource's field."""
        return f"model.ipAdapters[{self.name}]"

    @property
    def encoder(self) -> str:
        """The image encoder's folder, in the folder or repository."""
        return self.image_encoder or str(PurePosixPath(self.file).parent / _IMAGE_ENCODER)


def at_path(one: NamedIPAdapter, *, stages: frozenset[Stage]) -> IPAdapterFiles:
    """One in a folder. Raises UnsupportedModel."""
    root = Path(one.id)
    file, encoder = root / one.file, root / one.encoder
    if _wants_file(stages) and not file.is_file():
        raise UnsupportedModel(f"{one.at}.file: there is no {file}: mount its folder into the workers")
    if Stage.ENCODE in stages and not (encoder / _CONFIG).is_file():
        raise UnsupportedModel(
            f"{one.at}.imageEncoder: there is no {encoder / _CONFIG}: name the folder of the encoder that it was "
            f"trained with, as a path in {root}"
        )
    return _files(one, root, stages)


def from_hub(
    one: NamedIPAdapter,
    *,
    stages: frozenset[Stage],
    variant: str,
    allow_pickle: bool,
    patience_seconds: float,
    paused: Callable[[], None] = lambda: None,
    endpoint: str = "",
    cache: Path | None = None,
    offline: bool | None = None,
) -> IPAdapterFiles:
    """One of a repository: what `stages` need of it, an image encoder's weights of `variant`, where it has them so.

    What is in the cache is not asked for again. Raises DownloadFailed, UnsupportedModel, OSError (a full disk).
    """
    if not _wants_file(stages):
        return _files(one, Path(), stages)
    if PurePosixPath(one.file).suffix in PICKLE_SUFFIXES and not allow_pickle:
        raise UnsupportedModel(
            f"{one.at}.file: {one.file} is a pickle that may run any code; name its safetensors, or set "
            "model.allowPickle if you trust its maker"
        )
    config = f"{one.encoder}/{_CONFIG}"
    # The file is small beside the encoder's weights: that it is not there is known before these come.
    needed = {one.file: "file", **({config: "imageEncoder"} if Stage.ENCODE in stages else {})}

    def get(asked: Download, *, local: bool) -> Path | None:
        commit = asked.snapshot(list(needed), local=local)
        for name, field in needed.items():
            if not (commit / name).is_file():
                if local:
                    return None
                raise DownloadFailed(f"{one.at}.{field}: repository {asked.name} has no {name}")
        if Stage.ENCODE not in stages:
            return commit
        folder = commit / one.encoder
        there = [file.name for file in folder.iterdir()] if local else _names(asked.listing(commit), one.encoder)
        what = f"{one.at}.imageEncoder: {asked.name}"
        # As transformers reads what it finds.
        found = weights_of(what, there, variant=variant, allow_pickle=allow_pickle, whole_first=True)
        if found is None or found.missing:
            if local:
                return None
            raise DownloadFailed(f"{one.at}.imageEncoder: repository {asked.name} lacks weights in {one.encoder}")
        weights = [f"{one.encoder}/{name}" for name in (*found.files, *found.indexes)]
        return asked.snapshot([*needed, *weights], local=local)

    patience = Patience(patience_seconds, paused=paused)
    root = obtain(one.at, share_of(one.id, one.revision), get, patience, endpoint, cache, offline=offline)
    return _files(one, root, stages)


def _wants_file(stages: frozenset[Stage]) -> bool:
    return stages != {Stage.DECODE}


def _files(one: NamedIPAdapter, root: Path, stages: frozenset[Stage]) -> IPAdapterFiles:
    return IPAdapterFiles(
        one.name,
        root / one.file if _wants_file(stages) else None,
        root / one.encoder if Stage.ENCODE in stages else None,
        one.scale,
    )


def _names(listing: Iterable[str], folder: str) -> list[str]:
    """Of the files in one folder of a repository."""
    prefix = f"{folder}/"
    return [path.removeprefix(prefix) for path in listing if path.startswith(prefix) and "/" not in path[len(prefix) :]]
