"""A disk under the job store that is slow, or full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event

from diffusion_router.store import jobs


def opened_on_faulty_disk(hold: Callable[[], None], is_full: Callable[[], bool]) -> Callable[[str], Engine]:
    """To take the place of `jobs.open_engine`. hold: returns when a commit may end; called in the store's thread."""
    really = jobs.open_engine

    def commit(_connection: object) -> None:
        hold()

    def begin(connection: Any) -> None:
        # What SQLite says then, it says as where the disk is full.
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one() if is_full() else 1 << 30
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    def open_engine(url: str) -> Engine:
        engine = really(url)
        event.listen(engine, "commit", commit)
        event.listen(engine, "begin", begin)
        return engine

    return open_engine
