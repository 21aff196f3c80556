"""The hub's cache with two revisions of the bundled model, which draw different pictures.

Names, sizes and shapes are the same in both, so what a worker tells of its model does not tell them apart: only the
generation of its pod does.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

MODEL = "tests/digits"
# The hub's names of commits.
ORIGINAL = "a" * 40
RETRAINED = "b" * 40

_BUNDLED = Path(__file__).parents[3] / "worker/diffusion_worker/model/bundled/digits"


def fill(cache: Path) -> None:
    """Writes both in the layout that HF_HOME has, readable for everyone."""
    snapshots = cache / "hub" / f"models--{MODEL.replace('/', '--')}" / "snapshots"
    for commit in (ORIGINAL, RETRAINED):
        shutil.copytree(_BUNDLED, snapshots / commit)
    for weights in (snapshots / RETRAINED).rglob("*.safetensors"):
        _change(weights)
    for path in (cache, *cache.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _change(weights: Path) -> None:
    """A little, in every component: a tensor of the one revision in the other's next stage would be seen."""
    tensors = load_file(weights)
    save_file({name: value * 1.05 if _is_weight(value) else value for name, value in tensors.items()}, weights)


def _is_weight(value: torch.Tensor) -> bool:
    return value.is_floating_point() and value.ndim >= 2
