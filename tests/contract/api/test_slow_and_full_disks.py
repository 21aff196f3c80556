"""A disk that is slow, or full: each request is answered in words, nothing accepted is lost, and it goes on after."""

from __future__ import annotations

import shutil
import threading
from types import SimpleNamespace

import grpc
import httpx
import pytest

from contract.api.artist import Artist, picture
from contract.router.conftest import Router, Start
from diffusion_router.store import jobs as job_store
from diffusionpipeline.v1 import stage_pb2
from testbed.faulty_disk import opened_on_faulty_disk
from testbed.waiting import eventually

DEADLINE = 20.0
ASKED = {"prompt": "a red seven", "output_format": "png"}


class Disk:
    """Under every job store that is opened from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held_up = threading.Event()
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.full = False
        monkeypatch.setattr(job_store, "open_engine", opened_on_faulty_disk(self._hold, lambda: self.full))

    def _hold(self) -> None:
        if not self.goes_on.is_set():
            self.held_up.set()
            assert self.goes_on.wait(DEADLINE)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


async def status(http: httpx.AsyncClient, job_id: str) -> str:
    return (await http.get(f"/v1/jobs/{job_id}")).json()["status"]


async def completed(http: httpx.AsyncClient, job_id: str, what: str) -> None:
    async def is_completed() -> bool:
        return await status(http, job_id) == "completed"

    await eventually(is_completed, DEADLINE, what)


async def jobs_of(http: httpx.AsyncClient) -> dict[str, str]:
    return {job["id"]: job["status"] for job in (await http.get("/v1/jobs")).json()["data"]}


@pytest.fixture
async def hasty(disk: Disk, start_router: Start) -> Router:
    """Does not wait long for its job store."""
    return await start_router(store_timeout_seconds=3.0, lease_seconds=300.0)


async def test_what_a_slow_disk_writes_after_the_answer_is_not_run(disk: Disk, hasty: Router) -> None:
    worker = await Artist(hasty.target).attach()
    worker.work()
    async with httpx.AsyncClient(base_url=hasty.url, timeout=DEADLINE) as http:
        disk.goes_on.clear()
        answer = await http.post("/v1/jobs", json=ASKED)
        assert answer.status_code == 503
        assert "did not commit within 3 s; whether it still will is not known" in answer.json()["error"]["message"]
        assert (await http.get("/healthz")).status_code == 200
        disk.goes_on.set()

        async def has_ended() -> bool:
            return set((await jobs_of(http)).values()) == {"cancelled"}

        await eventually(has_ended, DEADLINE, "it is cancelled: nobody can know of it")
        (job_id,) = await jobs_of(http)
        assert (await http.delete(f"/v1/jobs/{job_id}")).status_code == 200
        assert not worker.executed
        assert (await http.post("/v1/jobs", json=ASKED)).status_code == 202
    await worker.cut()


async def test_what_a_slow_disk_writes_after_the_answer_is_found_by_its_key(disk: Disk, hasty: Router) -> None:
    worker = await Artist(hasty.target).attach()
    worker.work()
    key = {"Idempotency-Key": "the only one"}
    async with httpx.AsyncClient(base_url=hasty.url, timeout=DEADLINE) as http:
        disk.goes_on.clear()
        assert (await http.post("/v1/jobs", json=ASKED, headers=key)).status_code == 503
        disk.goes_on.set()

        async def is_found() -> bool:
            return bool(await jobs_of(http))

        await eventually(is_found, DEADLINE, "it is written down")
        (job_id,) = (await http.post("/v1/jobs", json=ASKED, headers=key)).json()["ids"]

        await completed(http, job_id, "it is run, once")
        assert list(await jobs_of(http)) == [job_id]
    await worker.cut()


async def test_an_end_that_a_slow_disk_holds_up_is_written_when_it_goes_on(disk: Disk, hasty: Router) -> None:
    worker = await Artist(hasty.target).attach()
    worker.allowed.clear()
    worker.work()
    async with httpx.AsyncClient(base_url=hasty.url, timeout=DEADLINE) as http:
        (job_id,) = (await http.post("/v1/jobs", json=ASKED)).json()["ids"]
        await worker.denoising.wait()
        disk.goes_on.clear()
        worker.allowed.set()
        await eventually(disk.held_up.is_set, DEADLINE, "its end is being written")
        refused = await http.post("/v1/jobs", json=ASKED)
        assert refused.status_code == 503
        assert "Check its disk" in refused.json()["error"]["message"], "it only waited for its turn"
        assert await status(http, job_id) == "in_progress", "an end that is not written down is nobody's to know"
        disk.goes_on.set()

        await completed(http, job_id, "its end is told")
        assert (await http.post("/v1/jobs", json=ASKED)).status_code == 202
    await worker.cut()


async def test_a_full_disk_is_said_and_ends_are_written_when_there_is_room(disk: Disk, hasty: Router) -> None:
    worker = await Artist(hasty.target).attach()
    worker.allowed.clear()
    worker.work()
    async with httpx.AsyncClient(base_url=hasty.url, timeout=DEADLINE) as http:
        (job_id,) = (await http.post("/v1/jobs", json=ASKED)).json()["ids"]
        await worker.denoising.wait()
        disk.full = True
        # Longer than the room that its last page may have.
        refused = await http.post("/v1/jobs", json={**ASKED, "prompt": "x" * 8000})
        assert refused.status_code == 503
        assert "refused a write: database or disk is full. Check its disk" in refused.json()["error"]["message"]
        worker.allowed.set()
        disk.full = False

        await completed(http, job_id, "its end is written")
    await worker.cut()


async def test_a_full_artifact_store_stops_files_and_not_jobs(
    start_router: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = await start_router(lease_seconds=300.0, disk_reserve_bytes=1 << 20)
    worker = await Artist(router.target).attach()
    worker.allowed.clear()
    worker.work()
    async with httpx.AsyncClient(base_url=router.url, timeout=DEADLINE) as http:
        assert (await http.post("/v1/jobs", json=ASKED)).status_code == 202
        await worker.denoising.wait()
        with monkeypatch.context() as full:
            full.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1 << 20))
            accepted = await http.post("/v1/jobs", json=ASKED)
            assert accepted.status_code == 202, "a job is only a row"
            edit = await http.post("/v1/jobs", data=ASKED, files={"image": ("a.png", picture(), "image/png")})
            assert edit.status_code == 503
            assert "are kept for the job store" in edit.json()["error"]["message"]
            task = next(iter(worker.tasks.values()))
            decode = type(task).FromString(task.SerializeToString())
            decode.stage = stage_pb2.STAGE_DECODE
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await worker.upload(decode, b"picture")
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE, "which a worker tries again"
        worker.allowed.set()
        (job_id,) = accepted.json()["ids"]

        await completed(http, job_id, "there is room again")
    await worker.cut()
