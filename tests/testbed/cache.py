"""What is made once for all test runs on a machine, under the home folder's cache."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def root() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "diffusion-operator"


def made_once(folder: Path, make: Callable[[Path], None], *, seconds: float) -> Path:
    """`folder`, filled by `make` if it is not there. A half-made folder never has this name.

    Whoever wants it meanwhile waits, for at most `seconds`; then filelock.Timeout is raised.
    """
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock"), timeout=seconds):
        if not folder.exists():
            draft = folder.with_name(f".{folder.name}")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            make(draft)
            draft.rename(folder)
    return folder
