"""`python -m diffusion_worker.prefetch`: puts what roles load of a hub's model into the cache, and ends.

It takes a worker's settings, of which those about the model count, and ends with a worker's statuses: so what keeps a
node of a model cache from having its share is told as what keeps a worker from starting is.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

import structlog

from diffusion_worker.settings import Settings
from diffusionpipeline.process.logs import configure
from diffusionpipeline.words import EXIT_FAILED

log = structlog.get_logger()


def main(settings: Settings) -> NoReturn:
    """Pull what is not there yet; ends the process."""
    configure(settings.log_format, settings.log_level)
    # As process 1 of a container Python ignores it. A file that is not whole goes on where it was, or anew.
    signal.signal(signal.SIGTERM, _end)
    from diffusion_worker.downloading import Downloading
    from diffusion_worker.ends import status_of
    from diffusion_worker.loading import fetch
    from diffusion_worker.metrics import Metrics
    from diffusion_worker.model.types import DownloadFailed, UnsupportedModel

    metrics = Metrics(settings.label, settings.stages)
    status = 0
    try:
        path = fetch(settings, Downloading(metrics).told, metrics.download_paused)
        log.info("prefetched", id=settings.model_id, commit=path.name, roles=list(settings.roles))
    except (DownloadFailed, UnsupportedModel, OSError) as error:
        log.error("prefetch_failed", error=str(error))
        status = status_of(error)
    # Threads of a download that was given up are not waited for.
    os._exit(status)


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(EXIT_FAILED)


if __name__ == "__main__":
    main(Settings.read())
