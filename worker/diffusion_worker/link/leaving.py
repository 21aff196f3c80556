"""How a worker leaves the router: in peace, when it was told to, or at once, when it can't go on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import structlog

from diffusion_worker.link.stream import RouterStream
from diffusion_worker.link.worker import Worker
from diffusion_worker.work.runner import Runner

BOUNDARY_SECONDS: Final = 5.0
LINGER_SECONDS: Final = 10.0
"""For what a worker that can't go on has made: to be pulled, or uploaded."""

log = structlog.get_logger()


async def drain(runner: Runner, stream: RouterStream, worker: Worker, seconds: float) -> None:
    """Finish what runs, hand back the rest, keep outputs until they are released; all of it within `seconds`."""
    log.info("draining", seconds=seconds)
    runner.drain()
    stream.beat(worker)
    if not await runner.holdings.empty(outputs=True, timeout=seconds):
        runner.hand_back()
        if not await runner.holdings.empty(outputs=False, timeout=BOUNDARY_SECONDS):
            log.warning("drained_while_computing")
    await stream.close()
    log.info("drained")


async def break_off(
    runner: Runner, stream: RouterStream, worker: Worker, why: str, *, stalled: Collection[str] = (), outputs: bool
) -> None:
    """End all tasks now: the `stalled` ones as such, the others handed back. `outputs`: they can still be pulled.

    Returns after at most 12 seconds, whatever computes.
    """
    runner.draining = True
    # Before the tasks are: else the router would send one of them back here.
    stream.beat(worker)
    runner.forsake(stalled, why)
    if not await runner.holdings.empty(outputs=outputs, timeout=LINGER_SECONDS):
        runner.hand_back()
    await stream.close()
