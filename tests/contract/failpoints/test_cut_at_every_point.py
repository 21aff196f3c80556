"""The router is cut before and after every write, file and answer; nothing that was promised is lost (I1, I7).

One client's story meets submit, start, end, failure, kill, cancel and delete. It is told once to count the points, and
then once for each of them: the router ends there, another one begins on the same stores, and the client goes on as one
would: what was not answered is sent again under its key.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from contract.failpoints.lives import DEADLINE, Life, Worker, parameters, picture_of, stop_workers
from contract.failpoints.points import Points
from diffusion_router.clock import StoreClock
from diffusion_router.housekeeping import STRAY_SECONDS, Housekeeping
from diffusion_router.store import JobRecord
from diffusionpipeline.v1 import job_pb2
from testbed.waiting import eventually

PARTS = 4
JOBS = {"plain": 1, "pair": 2, "fails": 1, "kills": 1}
"""By prompt, which is the request's key too: how many jobs it asks for. Beside them one without a key, that `waits`."""


@dataclass
class Client:
    """What the client was told, and nothing else."""

    accepted: dict[str, list[str]] = field(default_factory=dict)
    """Jobs by their request's prompt."""
    ends: dict[str, job_pb2.Job] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)

    async def submit(self, life: Life, prompt: str, *, keyed: bool = True) -> list[str]:
        requests = [parameters(prompt)] * JOBS.get(prompt, 1)
        if prompt == "pair":
            key = await life.service.put_input(b"a photo")
            requests[0].inputs.add(name="image", key=key)
        made = life.service.submit(requests, idempotency_key=prompt if keyed else None)
        jobs = [job.id for job in await life.answered("submit", made)]
        self.accepted[prompt] = jobs
        return jobs

    async def wait(self, life: Life, job_id: str) -> None:
        self.ends[job_id] = await life.answered("wait", life.service.wait(job_id, DEADLINE))

    async def cancel(self, life: Life, job_id: str) -> None:
        self.ends[job_id] = await life.answered("cancel", life.service.cancel(job_id))
        self.cancelled.add(job_id)

    async def delete(self, life: Life, job_id: str) -> None:
        await life.answered("delete", life.service.delete(job_id))
        self.deleted.add(job_id)


async def story(life: Life, client: Client) -> None:
    (waits,) = await client.submit(life, "waits", keyed=False)
    (plain,) = await client.submit(life, "plain")
    await client.wait(life, plain)
    await client.cancel(life, waits)
    for prompt in ("pair", "fails", "kills"):
        for job_id in await client.submit(life, prompt):
            await client.wait(life, job_id)
    await client.delete(life, plain)


async def go_on(life: Life, client: Client) -> None:
    for prompt in JOBS:
        if prompt not in client.accepted:
            await client.submit(life, prompt)
    for job in await life.service.list(limit=100):
        if job.parameters.prompt == "waits" and not job.completed_at:
            await life.service.cancel(job.id)

    async def all_have_ended() -> bool:
        return not await life.jobs.unfinished()

    await eventually(all_have_ended, DEADLINE, "every job has ended")


async def check(life: Life, client: Client) -> None:
    rows = {record.id: record for record in await life.jobs.list(limit=1000)}
    for prompt, job_ids in client.accepted.items():
        for job_id in job_ids:
            if job_id in client.deleted:
                assert job_id not in rows, "what was deleted is back"
                continue
            # A deletion that was not answered may have been done.
            if job_id in rows or prompt != "plain":
                await check_end(life, rows[job_id], prompt)
                if (told := client.ends.get(job_id)) is not None:
                    assert rows[job_id].result == told, "I1: it ended otherwise than was told"
    for prompt, number in JOBS.items():
        of_prompt = [record for record in rows.values() if record.parameters.prompt == prompt]
        assert len(of_prompt) == number or (prompt == "plain" and not of_prompt), f"{prompt} was accepted twice"
    assert not client.cancelled & set(life.executed), "what was cancelled is run"
    assert not client.deleted & set(life.executed), "what was deleted is run"


async def check_end(life: Life, record: JobRecord, prompt: str) -> None:
    result = record.result
    assert result is not None
    assert result.status == {
        "fails": job_pb2.JOB_STATUS_FAILED,
        "waits": job_pb2.JOB_STATUS_CANCELLED,
    }.get(prompt, job_pb2.JOB_STATUS_COMPLETED)
    if result.status == job_pb2.JOB_STATUS_COMPLETED:
        (artifact,) = result.artifacts
        assert await life.artifacts.read(artifact.key) == picture_of(record.id)


async def check_files(life: Life) -> None:
    """What a cut left behind is cleared away, and nothing else."""
    clock = await StoreClock.open(life.jobs, boot="", wall=0.0, up=0.0)
    keeper = Housekeeping(life.jobs, life.artifacts, clock, up=0.0)
    for halves in range(1, 4):
        await keeper.sweep(0.0, halves * STRAY_SECONDS / 2)
    rows = {record.id: record for record in await life.jobs.list(limit=1000)}
    named = {file.key for record in rows.values() for file in record.parameters.inputs}
    named |= {
        artifact.key for record in rows.values() if record.result is not None for artifact in record.result.artifacts
    }
    left = {key async for keys in life.artifacts.all_keys() for key in keys}
    assert named <= left
    assert {key for key in left - named if key.split("/")[1] not in rows} == set()


async def tell(folder: Path, points: Points) -> Client:
    """The story, up to where the router is cut."""
    worker, client = Worker(), Client()
    life = await Life.begin(folder, points)
    begun = asyncio.create_task(_first_life(life, worker, client))
    cut = asyncio.create_task(points.cut.wait())
    done, _ = await asyncio.wait({begun, cut}, timeout=DEADLINE, return_when=asyncio.FIRST_COMPLETED)
    assert done, f"it stands still after {points.reached[-3:]}"
    if begun in done:
        begun.result()
    cut.cancel()
    await life.end()
    again = await Life.begin(folder, Points())
    try:
        await again.start(worker)
        await go_on(again, client)
        await check(again, client)
        await check_files(again)
    finally:
        await again.end()
        await stop_workers()
    return client


async def _first_life(life: Life, worker: Worker, client: Client) -> None:
    await life.start(worker)
    await story(life, client)


async def test_uncut_the_story_is_told_to_its_end(tmp_path: Path) -> None:
    points = Points()
    client = await tell(tmp_path, points)
    assert client.cancelled
    assert client.deleted
    assert len(client.ends) == 6
    for what in ("JobStore.add", "JobStore.finish", "JobStore.record_kills", "JobStore.delete", "ArtifactStore.put"):
        assert {f"before {what}", f"after {what}"} <= set(points.reached)
    assert {f"answer of {what}" for what in ("submit", "wait", "cancel", "delete")} <= set(points.reached)


@pytest.mark.parametrize("part", range(PARTS))
async def test_i1_i7_the_router_may_end_at_any_point(tmp_path: Path, part: int) -> None:
    counted = Points()
    await tell(tmp_path / "counted", counted)
    assert len(counted.reached) > 60
    # Stories of two lives differ by what happens at once; beyond the last point the story is told to its end.
    for number in range(part, len(counted.reached) + PARTS, PARTS):
        points = Points(number)
        try:
            await tell(tmp_path / f"cut-{number}", points)
        except BaseException as error:
            error.add_note(f"cut at {number}: {points.reached[-3:]}")
            raise
