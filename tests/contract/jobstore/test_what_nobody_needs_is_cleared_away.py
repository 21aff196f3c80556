"""Ended jobs go when their time is over, however the wall clock jumps; files that no job names go in time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from contract.jobstore.records import ended, record
from diffusion_router.housekeeping import STRAY_SECONDS, Housekeeping
from diffusion_router.store import ArtifactNotFound, ArtifactStore, JobRecord, JobStore
from diffusionpipeline.v1 import stage_pb2

# As in `records`: jobs are made at 1000 and end at 1010; the store keeps them for 100 s.
NOW = 1010.0
DAYS = 2 * 86_400.0


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.open(str(tmp_path / "files"))


@pytest.fixture
async def housekeeping(store: JobStore, artifacts: ArtifactStore) -> Housekeeping:
    made = Housekeeping(store, artifacts, boot="a boot")
    await made.begin(NOW, 0.0)
    return made


def reading(job_id: str, *keys: str) -> JobRecord:
    made = record(job_id)
    parameters = stage_pb2.JobParameters()
    parameters.CopyFrom(made.parameters)
    for key in keys:
        parameters.inputs.add(name="image", key=key)
    return replace(made, parameters=parameters)


async def is_there(artifacts: ArtifactStore, key: str) -> bool:
    try:
        await artifacts.read(key)
    except ArtifactNotFound:
        return False
    return True


async def test_an_ended_job_and_its_files_go_when_their_time_is_over(
    store: JobStore, artifacts: ArtifactStore, housekeeping: Housekeeping
) -> None:
    await artifacts.put("inputs/i", b"x")
    await artifacts.put("jobs/a/0.png", b"x")
    await store.add([reading("a", "inputs/i")])
    await store.finish([ended("a")])
    await housekeeping.sweep(NOW + 90.0, 90.0)
    assert await store.get("a")
    await housekeeping.sweep(NOW + 110.0, 110.0)
    assert await store.get("a") is None
    assert not await is_there(artifacts, "jobs/a/0.png")
    assert not await is_there(artifacts, "inputs/i")


async def test_files_that_several_jobs_of_a_request_read_go_with_the_last(
    store: JobStore, artifacts: ArtifactStore, housekeeping: Housekeeping
) -> None:
    await artifacts.put("inputs/i", b"x")
    await store.add([reading("a", "inputs/i"), reading("b", "inputs/i")])
    for job_id in ("a", "b"):
        assert await is_there(artifacts, "inputs/i")
        found = await store.get(job_id)
        assert found is not None
        await housekeeping.forget([found])
    assert not await is_there(artifacts, "inputs/i")


async def test_a_jump_of_the_wall_clock_deletes_nothing_early(store: JobStore, housekeeping: Housekeeping) -> None:
    await store.add([record("ended"), record("held")])
    await store.finish([ended("ended")])
    await housekeeping.sweep(NOW + DAYS + 30.0, 30.0)
    assert await store.get("ended"), "30 s have passed, not two days"
    (held,) = await store.unfinished()
    assert held.deadline_at == pytest.approx(record("held").deadline_at + DAYS), "also for a router that starts now"
    await housekeeping.sweep(NOW + DAYS + 90.0, 90.0)
    assert await store.get("ended")
    await housekeeping.sweep(NOW + DAYS + 110.0, 110.0)
    assert await store.get("ended") is None


@pytest.mark.parametrize(("boot", "kept"), [("a boot", True), ("another boot", False), ("", False)])
async def test_a_jump_before_a_restart_is_noticed_unless_the_machine_was_started_too(
    store: JobStore, artifacts: ArtifactStore, housekeeping: Housekeeping, boot: str, kept: bool
) -> None:
    await store.add([record("a")])
    await store.finish([ended("a")])
    again = Housekeeping(store, artifacts, boot=boot)
    await again.begin(NOW + DAYS + 10.0, 10.0)
    await again.sweep(NOW + DAYS + 40.0, 40.0)
    assert (await store.get("a") is not None) == kept
    await again.sweep(NOW + DAYS + 110.0, 110.0)
    assert await store.get("a") is None


async def test_what_ends_after_a_jump_is_kept_for_no_longer(store: JobStore, housekeeping: Housekeeping) -> None:
    await store.add([replace(record("late"), created_at=NOW + DAYS)])
    await store.finish([ended("late", at=NOW + DAYS + 5.0)])
    await housekeeping.sweep(NOW + DAYS + 30.0, 30.0)
    await housekeeping.sweep(NOW + DAYS + 110.0, 110.0)
    assert await store.get("late") is None


async def test_a_jump_back_keeps_things_longer_and_not_for_ever(store: JobStore, housekeeping: Housekeeping) -> None:
    await store.add([record("a")])
    await store.finish([ended("a")])
    await housekeeping.sweep(NOW - DAYS, 110.0)
    assert await store.get("a")
    await housekeeping.sweep(NOW - DAYS + 30.0, 140.0)
    await housekeeping.sweep(NOW + 130.0, 240.0 + DAYS)
    assert await store.get("a") is None


async def test_files_that_no_job_names_go_after_a_while(
    store: JobStore, artifacts: ArtifactStore, housekeeping: Housekeeping, tmp_path: Path
) -> None:
    await store.add([reading("a", "inputs/named")])
    kept = ["inputs/named", "jobs/a/0.png"]
    strays = ["inputs/unnamed", "jobs/gone/0.png", "jobs/gone/1.png"]
    for key in (*kept, *strays):
        await artifacts.put(key, b"x")
    # What an upload leaves that was cut off by a kill, before it is renamed into place.
    unfinished = tmp_path / "files/jobs/gone/2.png#1"
    unfinished.write_bytes(b"half")
    other = tmp_path / "files/lost+found"
    other.write_bytes(b"not ours")

    await housekeeping.sweep(NOW, STRAY_SECONDS / 2)
    await housekeeping.sweep(NOW, STRAY_SECONDS)
    assert [await is_there(artifacts, key) for key in (*kept, *strays)] == [True] * 5, "seen for half an hour"
    await artifacts.put("inputs/new", b"of a request that is coming in")
    await housekeeping.sweep(NOW, STRAY_SECONDS * 1.5)
    assert [await is_there(artifacts, key) for key in kept] == [True, True]
    assert [await is_there(artifacts, key) for key in strays] == [False] * 3
    assert not unfinished.exists()
    assert not unfinished.parent.exists()
    assert other.exists()
    assert await is_there(artifacts, "inputs/new")


async def test_a_file_that_is_named_in_time_stays(
    store: JobStore, artifacts: ArtifactStore, housekeeping: Housekeeping
) -> None:
    await artifacts.put("inputs/slow", b"x")
    await housekeeping.sweep(NOW, STRAY_SECONDS / 2)
    await store.add([reading("a", "inputs/slow")])
    for halves in range(2, 8):
        await housekeeping.sweep(NOW, STRAY_SECONDS / 2 * halves)
    assert await is_there(artifacts, "inputs/slow")
