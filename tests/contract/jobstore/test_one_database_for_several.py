"""Routers that meet at one database: one serves a pipeline, and none another's jobs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from contract.jobstore.records import ended, record
from diffusion_router.store import JobStore, StoreServed

ROOT = Path(__file__).parents[3]

HOLDER = """
import asyncio, sys
from diffusion_router.store import JobStore

async def hold():
    store = await JobStore.open(sys.argv[1], pipeline="p")
    print("held", flush=True)
    await asyncio.sleep(60)

asyncio.run(hold())
"""


async def test_a_second_router_is_told_who_serves_the_pipeline(url: str, tmp_path: Path) -> None:
    script = tmp_path / "holder.py"
    script.write_text(HOLDER)
    environment = {"PYTHONPATH": f"{ROOT / 'worker'}:{ROOT / 'proto'}"}
    holder = await asyncio.create_subprocess_exec(sys.executable, script, url, env=environment, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert await asyncio.wait_for(holder.stdout.readline(), 30) == b"held\n"
        words = rf"is served already, for pipeline 'p', by process {holder.pid} on \S+, since .*UTC\. Two routers"
        with pytest.raises(StoreServed, match=words):
            await JobStore.open(url, pipeline="p")
    finally:
        holder.kill()
        await holder.wait()
    await (await JobStore.open(url, pipeline="p")).close()


async def test_two_pipelines_see_their_own_jobs_alone(url: str) -> None:
    ours, theirs = await JobStore.open(url, pipeline="ns/a"), await JobStore.open(url, pipeline="ns/b")
    await ours.add([record("a", key="k")])
    await theirs.add([record("b", key="k"), record("c")])
    assert [job.id for job in await ours.unfinished()] == ["a"]
    assert [job.id for job in await theirs.unfinished()] == ["b", "c"]
    assert await ours.get("b") is None
    assert [job.id for job in await ours.list()] == [job.id for job in await ours.page("png", 10)] == ["a"]
    assert [job.id for job in await ours.by_idempotency_key("k")] == ["a"]
    await theirs.finish([ended("b", at=0.0)], now=0.0)
    assert await ours.expire(1e9) == []
    assert await ours.known(["a", "b", "c"]) == {"a"}
    assert ours.secret != theirs.secret
    await ours.close()
    await theirs.close()


async def test_a_pipelines_secret_is_the_same_after_a_restart(url: str) -> None:
    first = await JobStore.open(url, pipeline="p")
    await first.close()
    again = await JobStore.open(url, pipeline="p")
    await again.close()
    assert first.secret == again.secret
    assert len(first.secret) == 32
