"""Processes of a test: those it starts itself, and what the kernel tells of others."""

from __future__ import annotations

from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path


@asynccontextmanager
async def killed_at_the_end() -> AsyncIterator[list[Process]]:
    """To be filled with what was started."""
    processes: list[Process] = []
    try:
        yield processes
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                process.kill()
            await process.communicate()


def is_alive(pid: int) -> bool:
    """Of no child of the test's, or no longer. Also says no of one that has ended and is not yet reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
