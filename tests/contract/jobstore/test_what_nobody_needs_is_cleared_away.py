"""Ended jobs go when their time is over, however the wall clock jumps; files that no job names go in time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from contract.jobstore.records import ended, record
from diffusion_router.clock import StoreClock
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
    clock = await StoreClock.open(store, boot="a boot", wall=NOW, up=0.0)
    return Housekeeping(store, artifacts, clock, up=0.0)


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
    await store.finish([ended("a")], now=1010.0)
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


@pytest.mark.parametrize("jump", [DAYS, -DAYS, 0.0])
async def test_a_jump_of_the_wall_clock_deletes_nothing_early_and_keeps_nothing_longer(
    store: JobStore, housekeeping: Housekeeping, jump: float
) -> None:
    await store.add([record("a")])
    await store.finish([ended("a")], now=NOW)
    await housekeeping.sweep(NOW + jump + 30.0, 30.0)
    await housekeeping.sweep(NOW + 2 * jump + 90.0, 90.0)
    assert await store.get("a"), "90 s have passed"
    await housekeeping.sweep(NOW + 2 * jump + 110.0, 110.0)
    assert await store.get("a") is None


async def test_the_stores_clock_goes_on_over_restarts_whenever_the_wall_clock_jumps(store: JobStore) -> None:
    first = await StoreClock.open(store, boot="a boot", wall=NOW, up=0.0)
    assert first.at(10.0) == NOW + 10.0
    again = await StoreClock.open(store, boot="a boot", wall=NOW + DAYS, up=20.0)
    assert again.at(20.0) == NOW + 20.0, "it jumped while the router was away"
    await again.watch(NOW + DAYS + 30.0, 30.0)
    assert again.at(30.0) == NOW + 30.0


async def test_the_stores_clock_goes_on_over_a_start_of_the_machine(store: JobStore) -> None:
    first = await StoreClock.open(store, boot="a boot", wall=NOW, up=500.0)
    await first.watch(NOW + DAYS + 10.0, 510.0)
    # Off for a minute.
    rebooted = await StoreClock.open(store, boot="another boot", wall=NOW + DAYS + 80.0, up=10.0)
    assert rebooted.at(10.0) == NOW + 80.0
    assert (await StoreClock.open(store, boot="another boot", wall=0.0, up=20.0)).at(20.0) == NOW + 90.0


async def test_where_the_start_of_the_machine_is_not_told_the_wall_clock_is_believed(store: JobStore) -> None:
    await StoreClock.open(store, boot="", wall=NOW, up=0.0)
    assert (await StoreClock.open(store, boot="", wall=NOW + DAYS, up=10.0)).at(10.0) == NOW + DAYS


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
