"""What the kernel tells of processes that are no children of the test's, or no longer."""

from __future__ import annotations

from pathlib import Path


def is_alive(pid: int) -> bool:
    """Also says no of a process that has ended and is not yet reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
