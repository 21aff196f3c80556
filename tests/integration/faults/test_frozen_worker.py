"""A worker that is stopped, not dead: noticed in its lease, fenced, and harmless when it wakes."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

from testbed.examples import resource
from testbed.pipelines import STARTUP_SECONDS, Load, at_rest, metric, peers, running
from testbed.waiting import eventually, until

LEASE = 3


async def test_a_frozen_denoiser_is_fenced_in_its_lease_and_its_late_work_harms_nothing(tmp_path: Path) -> None:
    document = resource("digits", router__leaseSeconds=LEASE, roles__denoiser__replicas=2)
    with running(document, tmp_path) as local:
        load = Load(local, clients=4, num_inference_steps=16)
        await load.learn()
        frozen = local.pods["digits-denoiser-0"]
        async with load.running():
            answered = len(load.answers)
            await eventually(lambda: len(load.answers) > answered + 4, 60, "load is answered")
            old = peers(local)[frozen.name].incarnation
            assert frozen.signal(signal.SIGSTOP)
            start = time.monotonic()
            try:
                await asyncio.to_thread(until, lambda: frozen.name not in peers(local), 3 * LEASE, "it is fenced")
                noticed = time.monotonic() - start
                answered = len(load.answers)
                await eventually(lambda: len(load.answers) > answered + 8, 60, "the other one goes on")
            finally:
                frozen.signal(signal.SIGCONT)

            def is_back() -> bool:
                peer = peers(local).get(frozen.name)
                return peer is not None and peer.incarnation != old

            await asyncio.to_thread(until, is_back, STARTUP_SECONDS, "it comes back as a new incarnation")
            answered = len(load.answers)
            await eventually(lambda: len(load.answers) > answered + 8, 60, "load is answered")
        assert noticed <= LEASE + 1
        assert frozen.restarts == 0
        until(lambda: at_rest(local), 30, "slots, outputs and tasks are given back")
        assert metric(local.http_url, "diffusion_router_peer_lease_expirations_total") == 1
        assert metric(local.http_url, "diffusion_router_requests_total", status="failed") == 0
