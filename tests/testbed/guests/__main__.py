"""Runs the command line's words in a guest that has the project at /share; its output and status are this one's."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from testbed.guests.image import install_project
from testbed.guests.running import run

with tempfile.TemporaryDirectory(prefix="rdma-share-") as folder:
    install_project(Path(folder))
    done = run(" ".join(sys.argv[1:]), Path(folder), seconds=600, mib=6144)
print(done.output, end="")  # noqa: T201
sys.exit(done.status)
