"""The hub's cache with revisions of the bundled model: two that draw different pictures, and one that draws none.

Names, sizes and shapes are the same in all, so what a worker tells of its model does not tell them apart: only the
generation of its pod does.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

MODEL = "tests/digits"
# The hub's names of commits.
ORIGINAL = "a" * 40
RETRAINED = "b" * 40
BROKEN = "c" * 40
"""It loads, and fails whatever it is asked to denoise."""

_BUNDLED = Path(__file__).parents[3] / "worker/diffusion_worker/model/bundled/digits"


def fill(cache: Path) -> None:
    """Writes them in the layout that HF_HOME has, readable for everyone."""
    snapshots = cache / "hub" / f"models--{MODEL.replace('/', '--')}" / "snapshots"
    for commit in (ORIGINAL, RETRAINED, BROKEN):
        shutil.copytree(_BUNDLED, snapshots / commit)
    for weights in (snapshots / RETRAINED).rglob("*.safetensors"):
        _change(weights)
    _break(snapshots / BROKEN / "scheduler" / "scheduler_config.json")
    for path in (cache, *cache.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _change(weights: Path) -> None:
    """A little, in every component: a tensor of the one revision in the other's next stage would be seen."""
    tensors = load_file(weights)
    save_file({name: value * 1.05 if _is_weight(value) else value for name, value in tensors.items()}, weights)


def _break(scheduler: Path) -> None:
    """The shift of a picture's timesteps is by a line through two lengths: through one and the same there is none."""
    config = json.loads(scheduler.read_text())
    scheduler.write_text(json.dumps({**config, "base_image_seq_len": 256, "max_image_seq_len": 256}))


def _is_weight(value: torch.Tensor) -> bool:
    return value.is_floating_point() and value.ndim >= 2
