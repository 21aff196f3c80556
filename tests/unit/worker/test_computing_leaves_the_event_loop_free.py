"""The one thread that computes hands results and errors to the event loop, and survives both."""

from __future__ import annotations

import asyncio

import pytest

from diffusion_worker.model.forwards import Forwards
from diffusion_worker.work.compute import ComputeThread
from diffusion_worker.work.hub import Hub
from diffusion_worker.work.watch import Doing


async def test_the_event_loop_and_the_compute_thread_pass_results_and_errors() -> None:
    compute = ComputeThread(asyncio.get_running_loop(), Hub(Forwards(), max_tokens=1, max_requests=1))
    assert await compute.run(Doing("seven"), lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await compute.run(Doing("nothing"), lambda: 1 // 0)
    assert compute.sound
    compute.stop()
