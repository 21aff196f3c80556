"""I6: workers die at any moment, under load, and the client sees only time."""

from __future__ import annotations

import asyncio
import random
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.examples import resource
from testbed.pipelines import STARTUP_SECONDS, Load, at_rest, metric, peers, running
from testbed.waiting import eventually, until

KILLS = 30
KILLS_IN_GATE = 3
LEASE = 3


@pytest.mark.timeout(60 + 45 * KILLS)
async def test_i6_sigkill_of_any_role_at_any_moment_loses_and_changes_no_accepted_job(
    tmp_path: Path, report: Callable[[str], None], in_gate: bool
) -> None:
    kills = KILLS_IN_GATE if in_gate else KILLS
    chance = random.Random(4)
    # So that there is an encoding to lose with an encoder.
    document = resource("digits", router__leaseSeconds=LEASE, roles__encoder__cacheShare=0)
    with running(document, tmp_path) as local:
        load = Load(local, clients=3, num_inference_steps=16)
        await load.learn()
        lost: dict[str, list[float]] = {"encoder": [], "denoiser": [], "decoder": []}
        back: list[float] = []
        async with load.running():
            for number in range(kills):
                pod = local.workers[number % 3]
                before, answered = peers(local)[pod.name].incarnation, len(load.answers)
                await eventually(lambda n=answered: len(load.answers) > n, 60, "load is answered")
                # A random moment of a job: one takes about half a second here.
                await asyncio.sleep(chance.random() * 0.5)
                killed_at = time.monotonic()
                assert pod.signal(signal.SIGKILL)

                def is_back(name: str = pod.name, old: str = before) -> bool:
                    peer = peers(local).get(name)
                    return peer is not None and peer.incarnation != old

                await asyncio.to_thread(until, is_back, STARTUP_SECONDS, f"{pod.name} is back")
                back.append(time.monotonic() - killed_at)
                answered = len(load.answers)
                await eventually(lambda n=answered: len(load.answers) > n, 60, "load is answered")
                hit = [answer.seconds for answer in load.answers if answer.ended_at > killed_at]
                lost[pod.role].append(max(hit))
        calm = statistics.median(answer.seconds for answer in load.answers)
        until(lambda: at_rest(local), 30, "slots, outputs and tasks are given back")
        interrupted = metric(local.http_url, "diffusion_router_jobs_interrupted_total")
        failed = metric(local.http_url, "diffusion_router_requests_total", status="failed")
    assert failed == 0
    worst = {role: f"{statistics.median(times):.1f}/{max(times):.1f}" for role, times in lost.items() if times}
    report(
        f"{kills} kills, {len(load.answers)} pictures, all right; {interrupted:.0f} jobs interrupted; "
        f"median job {calm:.2f} s; slowest job of a kill, median/max s by role {worst}; "
        f"worker back after {statistics.median(back):.1f} s"
    )
