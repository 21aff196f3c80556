"""How a worker ends that stands still and can't end by itself, and how it still says so."""

from __future__ import annotations

import threading
from typing import Final, Protocol

import structlog

from diffusion_worker.work.watch import Stall

SAY_SECONDS: Final = 1.0

log = structlog.get_logger()


class LastResort(Protocol):
    """What ends the process. Called on the watchdog's thread."""

    def put_off(self) -> None:
        """Called before the first look and at each. If it is not any more, nobody can: nothing in Python runs."""

    def end(self, stall: Stall) -> None:
        """End the process now."""


def say(event: str, **words: object) -> None:
    """Log an error without ever waiting for long: whoever reads the log may be what stands still."""
    speaking = threading.Thread(target=log.error, args=(event,), kwargs=words, daemon=True)
    speaking.start()
    speaking.join(SAY_SECONDS)
