"""I13: of two denoisers one hangs in a step. The other one finishes its jobs, and it is started again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from diffusionpipeline.words import EXIT_STALLED
from testbed.examples import resource
from testbed.pipelines import STARTUP_SECONDS, Load, at_rest, metric, peers, running
from testbed.waiting import eventually, until

HANGING = Path(__file__).with_name("hanging_denoiser.py")
BOUND = 5
"""What a forward of a shape that is known may take."""


async def test_i13_a_hung_denoisers_jobs_finish_on_the_other_one_and_it_is_started_again(
    tmp_path: Path, report: Callable[[str], None]
) -> None:
    hang = tmp_path / "hang"
    document = resource("digits", router__leaseSeconds=10, roles__denoiser__replicas=2)
    document["spec"]["roles"]["denoiser"] |= {
        "env": [
            {"name": "DIFFUSION_WORKER_STALL_SECONDS", "value": str(BOUND)},
            {"name": "DIFFUSION_WORKER_STALL_FIRST_SECONDS", "value": "60"},
        ],
        "podTemplate": {
            "spec": {"containers": [{"name": "main", "command": ["python", str(HANGING), str(hang)]}]},
        },
    }
    with running(document, tmp_path / "data") as local:
        denoisers = [pod for pod in local.workers if pod.role == "denoiser"]
        load = Load(local, clients=4, num_inference_steps=16)
        await load.learn()
        async with load.running():
            # Both know how long a forward takes.
            answered = len(load.answers)
            await eventually(lambda: len(load.answers) > answered + 8, 60, "load is answered")
            before = {pod.name: peers(local)[pod.name].incarnation for pod in denoisers}
            hang.touch()
            await eventually(lambda: not hang.exists(), 30, "a denoiser hangs")
            hung_at = time.monotonic()
            await eventually(
                lambda: any(pod.exit_code == EXIT_STALLED for pod in denoisers), 60, "it ended because it stands still"
            )
            ended = time.monotonic() - hung_at
            (hung,) = (pod for pod in denoisers if pod.exit_code == EXIT_STALLED)

            def is_back() -> bool:
                peer = peers(local).get(hung.name)
                return peer is not None and peer.incarnation != before[hung.name]

            await asyncio.to_thread(until, is_back, STARTUP_SECONDS, "it was started again")
            answered = len(load.answers)
            await eventually(lambda: len(load.answers) > answered + 8, 60, "load is answered")
        assert hung.restarts == 1
        assert [pod.restarts for pod in local.pods.values() if pod is not hung] == [0] * (len(local.pods) - 1)
        until(lambda: at_rest(local), 30, "slots, outputs and tasks are given back")
        assert metric(local.http_url, "diffusion_router_requests_total", status="failed") == 0
        assert "forward (FluxTransformer2DModel " in hung.log_path.read_text(), "the log says what stood still"
    slowest = max(answer.seconds for answer in load.answers)
    report(f"bound {BOUND} s: the hung worker ended after {ended:.1f} s, the slowest job took {slowest:.1f} s")
