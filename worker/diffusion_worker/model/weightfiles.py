"""Which files of a model a role needs, by their names alone: a listing of a hub's repository, or of a folder.

People publish weights several times over: in half precision beside single, in pieces beside whole, as pickles beside
safetensors, for other frameworks, and the whole pipeline once more in the root. One of them is loaded, and this says
which, in the same way for what is downloaded and for what is found in a folder.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from diffusion_worker.model.types import UnsupportedModel

PICKLE_SUFFIXES: Final = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
WEIGHT_SUFFIXES: Final = (".safetensors", *PICKLE_SUFFIXES)
CONFIG_SUFFIXES: Final = (".json", ".txt", ".model", ".jinja", ".tiktoken")

_STEMS: Final[Mapping[str, tuple[str, ...]]] = {
    ".safetensors": ("model", "diffusion_pytorch_model"),
    ".bin": ("pytorch_model", "diffusion_pytorch_model"),
}
"""What transformers and diffusers call weights. Others are there for other programs (openvino_model.bin)."""
# model.fp16-00001-of-00002, or as older versions of diffusers wrote it, model-00001-of-00002.fp16
_PIECE: Final = re.compile(r"-(\d{5})-of-(\d{5})(?=\.|$)")
_INDEX: Final = re.compile(r"\.index(\.[\w-]+)?\.json$")


@dataclass(frozen=True)
class WeightFile:
    """One file of weights, by what its name says."""

    name: str
    variant: str
    """fp16, …; empty: none."""
    piece: int
    """Counted from 1; 0: the whole."""
    pieces: int
    pickle: bool


@dataclass(frozen=True)
class Weights:
    """The weights of one component that are loaded: files of its folder, and the index of those in pieces."""

    files: tuple[str, ...]
    indexes: tuple[str, ...]
    variant: str
    missing: str = ""
    """Which piece is not there; empty: all are."""


def weights_of(
    component: str, names: Collection[str], *, variant: str = "", allow_pickle: bool = False, whole_first: bool = False
) -> Weights | None:
    """The weights that are loaded of a component in whose folder there are `names`; None: there are none.

    `variant` is taken where the component has it, else the weights without one, else those of the only variant.
    `whole_first`: a file
    of all weights goes before pieces (transformers' way), else after them (diffusers' way).
    Raises UnsupportedModel for pickles that are not allowed, and where several variants leave the choice open.
    """
    found = [file for name in sorted(names) if (file := _parse(name)) is not None]
    files = [file for file in found if not file.pickle]
    if not files:
        if not found:
            return None
        if not allow_pickle:
            suffixes = sorted({PurePosixPath(file.name).suffix for file in found})
            raise UnsupportedModel(
                f"{component}: its weights are only in {', '.join(suffixes)}, a pickle that may run any code; convert "
                f"them to safetensors, or set model.allowPickle if you trust their maker"
            )
        files = found
    variants = {file.variant for file in files}
    if variant not in variants and "" not in variants and len(variants) > 1:
        raise UnsupportedModel(
            f"{component}: its weights are there as {' and '.join(sorted(variants))}, which may be of different "
            f"training: say which with model.variant"
        )
    taken = variant if variant in variants else min(variants)
    files = [file for file in files if file.variant == taken]
    whole, pieces = [file for file in files if not file.piece], [file for file in files if file.piece]
    if pieces and not (whole and whole_first):
        missing = {(number, of) for of in {file.pieces for file in pieces} for number in range(1, of + 1)}
        missing -= {(file.piece, file.pieces) for file in pieces}
        lacks = "piece {} of {}".format(*min(missing)) if missing else ""
        return Weights(tuple(file.name for file in pieces), tuple(_indexes(names, pieces[0], variants)), taken, lacks)
    return Weights(tuple(file.name for file in whole), (), taken)


def config_files(listing: Iterable[str], components: Collection[str]) -> frozenset[str]:
    """Of a repository's listing: all of these components' folders that is no weights, and small."""
    return frozenset(
        path
        for path in listing
        if path.partition("/")[0] in components and "/" in path
        if path.endswith(CONFIG_SUFFIXES) and _INDEX.search(path) is None
    )


def folders(listing: Iterable[str]) -> Mapping[str, frozenset[str]]:
    """Names of the files in each folder of a repository's root."""
    found: dict[str, set[str]] = {}
    for path in listing:
        folder, _, name = path.partition("/")
        if name and "/" not in name:
            found.setdefault(folder, set()).add(name)
    return {folder: frozenset(names) for folder, names in found.items()}


def _parse(name: str) -> WeightFile | None:
    suffix = PurePosixPath(name).suffix
    stem = name.removesuffix(suffix)
    piece = _PIECE.search(stem)
    first, _, variant = _PIECE.sub("", stem).partition(".")
    if first not in _STEMS.get(suffix, ()):
        return None
    number, of = (int(piece[1]), int(piece[2])) if piece else (0, 0)
    return WeightFile(name, variant, number, of, suffix in PICKLE_SUFFIXES)


def _indexes(names: Iterable[str], taken: WeightFile, variants: Collection[str]) -> Iterator[str]:
    """Lists of what is in which piece, for pieces such as `taken`."""
    kind = f"{PurePosixPath(taken.name).suffix}."
    others = [f".{other}." for other in variants if other not in ("", taken.variant)]
    for name in sorted(names):
        if _INDEX.search(name) is None or kind not in name or any(other in name for other in others):
            continue
        if not taken.variant or f".{taken.variant}." in name:
            yield name
