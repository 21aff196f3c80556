"""Why a worker ends by itself, and with which status its process does."""

from __future__ import annotations

from typing import Final

from diffusion_worker.model.types import DownloadFailed, UnsupportedModel
from diffusion_worker.transport import EngineInitFailed
from diffusion_worker.work.watch import Stall
from diffusionpipeline.words import (
    EXIT_DOWNLOAD,
    EXIT_FAILED,
    EXIT_INCOMPATIBLE,
    EXIT_MODEL,
    EXIT_STALLED,
    EXIT_TRANSPORT,
)


class Incompatible(Exception):
    """The router can't use this worker: its model, transport mode or registration. The message is the router's."""


class TransportFailed(Exception):
    """The pool can't be served any more."""


class Stalled(Exception):
    """Something of this worker stands still."""

    def __init__(self, stall: Stall) -> None:
        super().__init__(str(stall))
        self.stall = stall


_STATUSES: Final[dict[type[BaseException], int]] = {
    UnsupportedModel: EXIT_MODEL,
    DownloadFailed: EXIT_DOWNLOAD,
    Incompatible: EXIT_INCOMPATIBLE,
    EngineInitFailed: EXIT_TRANSPORT,
    TransportFailed: EXIT_TRANSPORT,
    Stalled: EXIT_STALLED,
}
FORESEEN: Final[tuple[type[BaseException], ...]] = (*_STATUSES, OSError)
"""What ends a worker with a message and no traceback."""


def status_of(error: BaseException) -> int:
    """By which the operator knows what is wrong."""
    return _STATUSES.get(type(error), EXIT_FAILED)
