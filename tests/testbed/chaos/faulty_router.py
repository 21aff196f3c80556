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

from sqlalchemy import Engine, event

from diffusion_router.settings import Settings
from diffusion_router.store import jobs

_LOOK_SECONDS = 0.02


def main() -> None:
    folder = Path(sys.argv.pop(1))
    settings = Settings.read()
    _put_disk(folder)
    _put_clock(folder)
    from diffusion_router.app import main as route

    route(settings)


def _put_disk(folder: Path) -> None:
    really_open, really_used = jobs.open_engine, shutil.disk_usage

    def open_engine(url: str) -> Engine:
        engine = really_open(url)
        event.listen(engine, "commit", commit)
        event.listen(engine, "begin", begin)
        return engine

    def commit(_connection: object) -> None:
        while (folder / "slow").exists():
            time.sleep(_LOOK_SECONDS)

    def begin(connection: Any) -> None:
        # What SQLite says then, it says as where the disk is full.
        full = (folder / "full").exists()
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one() if full else 1 << 30
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    def disk_usage(path: Any) -> Any:
        return SimpleNamespace(free=0) if (folder / "files-full").exists() else really_used(path)

    jobs.open_engine = open_engine
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
