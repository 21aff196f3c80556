"""Makes each checkpoint once for all test runs on a machine: under the home folder's cache, behind a lock."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
from pathlib import Path

from testbed import cache
from testbed.zoo.family import Checkpoint

_LIBRARIES = ("torch", "diffusers", "transformers", "tokenizers", "safetensors")
_LOCK_SECONDS = 240


def folder() -> Path:
    """Where this version of the zoo keeps its checkpoints: named by its own sources and the libraries' versions."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    for library in _LIBRARIES:
        digest.update(f"{library}={importlib.metadata.version(library)}\n".encode())
    return cache.root() / "zoo" / digest.hexdigest()[:16]


def ensure(checkpoint: Checkpoint) -> Path:
    """The folder of `checkpoint`, made if it is not there yet. Half-made folders are never seen under its name."""
    return cache.made_once(folder() / checkpoint.name, lambda draft: _make(checkpoint, draft), seconds=_LOCK_SECONDS)


def _make(checkpoint: Checkpoint, path: Path) -> None:
    import diffusers

    module, _, function = checkpoint.recipe.partition(".")
    components = getattr(importlib.import_module(f"{__package__}.{module}"), function)()
    pipeline = getattr(diffusers, checkpoint.pipeline)(**components, **checkpoint.config)
    pipeline.save_pretrained(path, safe_serialization=True)
