"""Sources of an earlier version, which tests run beside this one. They come out of this repository."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Final

LANDED: Final = "b8396f7"
"""The last landed commit before worker and router told each other a version, and before pipelines had revisions."""

_ROOT: Final = Path(__file__).parents[2]


def sources_of(commit: str, folder: Path) -> Path:
    """Unpacks what its programs are made of into the folder."""
    archive = subprocess.run(
        ["git", "archive", commit, "operator", "worker", "proto", "crds"],
        cwd=_ROOT,
        capture_output=True,
        check=False,
        timeout=60,
    )
    words = archive.stderr.decode()
    assert archive.returncode == 0, f"commit {commit} is not in this clone ({words}): git fetch --unshallow"
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


def python_path(sources: Path) -> str:
    """PYTHONPATH by which they come before what is installed."""
    return ":".join(str(sources / part) for part in ("operator", "worker", "proto"))
