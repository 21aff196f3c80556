"""A router whose disk and clock do what files in a folder say: `python faulty_router.py FOLDER FLAG …`.

While `slow` is there no commit ends; while `full`, the job store's disk is; while `files-full`, the artifact store's.
`clock` holds the seconds by which the wall clock is wrong.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from diffusion_router.settings import Settings
from diffusion_router.store import jobs
from testbed.faulty_disk import opened_on_faulty_disk

_LOOK_SECONDS = 0.02


def main() -> None:
    folder = Path(sys.argv.pop(1))
    settings = Settings.read()
    _put_disk(folder)
    _put_clock(folder)
    from diffusion_router.app import main as route

    route(settings)


def _put_disk(folder: Path) -> None:
    really_used = shutil.disk_usage

    def hold() -> None:
        while (folder / "slow").exists():
            time.sleep(_LOOK_SECONDS)

    def disk_usage(path: Any) -> Any:
        return SimpleNamespace(free=0) if (folder / "files-full").exists() else really_used(path)

    jobs.open_engine = opened_on_faulty_disk(hold, (folder / "full").exists)
    shutil.disk_usage = disk_usage


def _put_clock(folder: Path) -> None:
    really = time.time

    def wrong() -> float:
        try:
            return really() + float((folder / "clock").read_text())
        except (OSError, ValueError):
            return really()

    time.time = wrong


if __name__ == "__main__":
    main()
