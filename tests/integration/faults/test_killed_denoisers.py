"""A denoiser that dies takes little work with it: its jobs go on from checkpoints that another keeps."""

from __future__ import annotations

import asyncio
import random
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from diffusionpipeline.v1 import job_pb2, registry_pb2, stage_pb2
from dpipe.up.local import LocalPipeline
from dpipe.up.process import LocalPod
from testbed.clients import Clients, denoisings
from testbed.examples import resource
from testbed.pipelines import JOB_SECONDS, STARTUP_SECONDS, at_rest, metric, peers, running
from testbed.waiting import eventually, until
from testbed.zoo import FAMILIES, ensure

KILLS = 30
KILLS_IN_GATE = 2
SECONDS = 1
LEASE = 3
STEPS = {"digits": 60, "wan21": 40}


@dataclass
class Watched:
    """What clients see of their jobs."""

    latest: dict[str, job_pb2.Job] = field(default_factory=dict)
    heard: dict[str, dict[int, float]] = field(default_factory=dict)
    """When each step of a job was first heard of, of a job that was lost at most once."""

    def hear(self, job: job_pb2.Job) -> None:
        self.latest[job.id] = job
        if job.step:
            self.heard.setdefault(job.id, {}).setdefault(job.step, time.monotonic())

    def usual_step(self) -> float:
        """Seconds."""
        known = [sorted(steps.items()) for steps in self.heard.values() if len(steps) > 1]
        return statistics.median((last[1] - first[1]) / (last[0] - first[0]) for first, *_, last in known)

    def on(self, pod: str, *, since: float = 0.0) -> list[job_pb2.Job]:
        """Jobs that it denoises, and has not begun to before that time."""
        return [
            job
            for job in self.latest.values()
            if not job.completed_at
            and 0 < job.step < job.steps
            and denoises_on(job) == pod
            and min(self.heard[job.id].values()) > since
        ]


def denoises_on(job: job_pb2.Job) -> str:
    last = job.stages[-1]
    return last.pod_name if last.stage == stage_pb2.STAGE_DENOISE and not last.HasField("timings") else ""


@dataclass
class Lost:
    """A denoising whose worker was killed."""

    job_id: str
    killed_at: float
    heard: dict[int, float]
    usual_step: float

    def __post_init__(self) -> None:
        steps = sorted(self.heard.items())
        (first, begun), (last, at) = steps[0], steps[-1]
        self.step_seconds = (at - begun) / (last - first) if last > first else self.usual_step
        self.began_at = begun - first * self.step_seconds

    def done_anew(self, went_on_from: int) -> float:
        """Seconds of work. A step that was not heard of itself counts as done anew."""
        known = max((step for step in self.heard if step <= went_on_from), default=0)
        return self.killed_at - (self.heard[known] if known else self.began_at)


@pytest.mark.timeout(180 + 40 * KILLS)
@pytest.mark.parametrize("model", ["digits", pytest.param("wan21", marks=pytest.mark.thorough)])
async def test_a_killed_denoiser_takes_no_more_work_with_it_than_its_checkpoints_allow(
    model: str, tmp_path: Path, report: Callable[[str], None], in_gate: bool
) -> None:
    kills = KILLS_IN_GATE if in_gate else KILLS
    chance = random.Random(11)
    changes: dict[str, Any] = {
        # Those that come back take their time.
        "roles__denoiser__replicas": 3 if in_gate else 4,
        "roles__denoiser__checkpointSeconds": SECONDS,
        "router__leaseSeconds": LEASE,
        "transport": {"backend": "tcp"},
    }
    asked: dict[str, Any] = {"prompt": "a red seven", "output_format": "png"}
    if model != "digits":
        family = FAMILIES[model]
        changes["model"] = {"source": "Path", "id": str(ensure(family.checkpoint)), "dtype": "float32"}
        asked = {**family.request, "output_format": "mp4"}
        asked.pop("seed", None)
    watched, lost = Watched(), list[Lost]()
    with running(resource("digits", **changes), tmp_path) as local:
        asked |= {"num_inference_steps": STEPS[model]}
        clients = Clients(local, asked, count=2, seeds=range(2), watched=watched.hear)
        await clients.learn()
        async with clients.asking():
            for _ in range(kills):
                pod = await denoising(local, watched, chance)
                # Any moment of the next seconds.
                await asyncio.sleep(chance.uniform(0.0, 3.0 * SECONDS))
                at = time.monotonic()
                assert pod.signal(signal.SIGKILL)
                lost += [
                    Lost(job.id, at, dict(watched.heard[job.id]), watched.usual_step()) for job in watched.on(pod.name)
                ]
                gone = {one.job_id for one in lost}
                # A job that has ended two workers would be taken to have killed them.
                await eventually(lambda g=gone: g <= {job.id for job in clients.jobs}, JOB_SECONDS, "they go on")
        until(lambda: at_rest(local), 30, "slots, outputs and tasks are given back")
        failed = metric(local.http_url, "diffusion_router_requests_total", status="failed")
        kept, resumed, left_out = (
            metric(local.http_url, "diffusion_router_checkpoints_total", outcome=outcome)
            for outcome in ("kept", "resumed", "left_out")
        )
        lost_steps = metric(local.http_url, "diffusion_router_lost_steps_total")
    assert failed == 0
    jobs = {job.id: job for job in clients.jobs}
    # Some have ended just then.
    lost = [one for one in lost if len(denoisings(jobs[one.job_id])) > 1]
    assert lost, "nothing was denoised where a denoiser was killed"
    went_on_from = [STEPS[model] - denoisings(jobs[one.job_id])[-1].timings.steps for one in lost]
    assert not [
        one
        for one, step in zip(lost, went_on_from, strict=True)
        if not step and one.killed_at - one.began_at > 3 * SECONDS
    ], "they were denoised for longer than checkpoints are apart, and begun anew"
    if not in_gate:
        # Not while everything else runs beside it: a router that is given no time asks for nothing in time.
        assert not [
            one
            for one, step in zip(lost, went_on_from, strict=True)
            if one.done_anew(step) > SECONDS + one.step_seconds
        ]
    told = [sum(stage.lost_steps for stage in denoisings(jobs[one.job_id])) for one in lost]
    assert sum(told) == lost_steps
    seconds = sorted(one.done_anew(step) for one, step in zip(lost, went_on_from, strict=True))
    report(
        f"{kills} kills, {len(jobs)} products, all right; {len(lost)} denoisings lost, {resumed:.0f} went on from a "
        f"checkpoint; of {SECONDS} s apart {kept:.0f} were kept and {left_out:.0f} left out; seconds done anew, "
        f"min/median/max {seconds[0]:.2f}/{statistics.median(seconds):.2f}/{seconds[-1]:.2f}, steps told as lost "
        f"{min(told)}/{statistics.median(told):.0f}/{max(told)}; a step took up to "
        f"{max(one.step_seconds for one in lost):.3f} s"
    )


async def denoising(local: LocalPipeline, watched: Watched, chance: random.Random) -> LocalPod:
    """One of several denoisers, which has begun a job since they were there."""

    def here() -> set[str]:
        ready = registry_pb2.PEER_STATE_READY
        return {name for name, peer in peers(local).items() if "denoiser" in name and peer.state == ready}

    await asyncio.to_thread(until, lambda: len(here()) > 1, STARTUP_SECONDS, "two denoisers")
    since, names = time.monotonic(), here()
    pods = [pod for pod in local.workers if pod.name in names]
    chance.shuffle(pods)

    def first() -> LocalPod | None:
        return next((pod for pod in pods if watched.on(pod.name, since=since)), None)

    await eventually(first, JOB_SECONDS, "one of them begins a job")
    pod = first()
    assert pod is not None
    return pod
