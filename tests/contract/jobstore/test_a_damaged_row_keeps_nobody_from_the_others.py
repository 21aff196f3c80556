"""What cannot be read of one job is said of that job, and the others go on."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from sqlalchemy import create_engine, text

from contract.api.artist import Artist
from contract.jobstore.records import ended, record
from contract.router.conftest import Start, start_router
from diffusion_router.store import JobStore
from diffusionpipeline.v1 import job_pb2

__all__ = ["start_router"]

DAMAGES = {
    "parameters": "x'ffffffff'",
    "deadline_at": "'tomorrow'",
    "created_at": "x'00'",
    "kills": "'many'",
}


def damage(url: str, job_id: str, column: str, value: str) -> None:
    with create_engine(url).begin() as connection:
        connection.execute(text(f"update jobs set {column} = {value} where id = '{job_id}'"))


@pytest.mark.parametrize("column", DAMAGES)
async def test_the_store_says_which_part_of_which_row_it_is(url: str, store: JobStore, column: str) -> None:
    await store.add([record("a"), record("b")])
    damage(url, "a", column, DAMAGES[column])
    damaged, sound = await store.unfinished()
    assert (damaged.id, damaged.damage) == ("a", column)
    assert sound == record("b")


async def test_a_result_that_cannot_be_read_is_none(url: str, store: JobStore) -> None:
    await store.add([record("a")])
    await store.finish([ended("a")], now=1010.0)
    damage(url, "a", "result", "x'ffffffff'")
    found = await store.get("a")
    assert found is not None
    assert (found.status, found.result, found.damage) == (job_pb2.JOB_STATUS_COMPLETED, None, "result")


async def test_a_router_fails_the_damaged_job_and_runs_the_others(start_router: Start, tmp_path: Path) -> None:
    first = await start_router()
    async with httpx.AsyncClient(base_url=first.url, timeout=20) as http:
        made = await http.post("/v1/jobs", json={"prompt": "a red seven", "n": 3, "output_format": "png"})
    damaged, unreadable, sound = made.json()["ids"]
    await first.shut_down()
    url = f"sqlite:///{tmp_path / 'data' / 'jobs.db'}"
    damage(url, damaged, "parameters", "x'ffffffff'")
    damage(url, unreadable, "status", "3")
    damage(url, unreadable, "result", "x'ffffffff'")

    second = await start_router()
    worker = await Artist(second.target).attach()
    worker.work()
    async with httpx.AsyncClient(base_url=second.url, timeout=20) as http:
        for job_id in (damaged, sound):
            async with http.stream("GET", f"/v1/jobs/{job_id}/events") as events:
                await events.aread()
        answers = {job_id: (await http.get(f"/v1/jobs/{job_id}")).json() for job_id in (damaged, unreadable, sound)}
    await worker.cut()
    assert answers[sound]["status"] == "completed"
    for job_id, column in ((damaged, "parameters"), (unreadable, "result")):
        assert answers[job_id]["status"] == "failed"
        words = f"the row of this job in the job store is damaged ({column}); send the request again"
        assert answers[job_id]["error"]["message"] == words
