"""The process that wrote dies at once after the acknowledgement (I7)."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

from diffusion_router.store import JobStore

ROOT = Path(__file__).parents[3]

# Tells each job on its standard output once it is acknowledged, and kills itself in the midst of many more.
WRITER = """
import asyncio, os, signal, sys
from contract.jobstore.records import ended, record
from diffusion_router.store import JobStore

async def write(store, name):
    for index in range(10_000):
        await store.add([record(f"{name}-{index}", key=f"{name}-{index}")])
        os.write(1, f"{name}-{index}\\n".encode())
        if index % 3 == 0:
            await store.finish([ended(f"{name}-{index}")], now=1010.0)
            os.write(1, f"end {name}-{index}\\n".encode())
        if name == "w0" and index == 40:
            os.kill(os.getpid(), signal.SIGKILL)

async def main():
    store = await JobStore.open(sys.argv[1])
    await asyncio.gather(*(write(store, f"w{number}") for number in range(16)))

asyncio.run(main())
"""


async def test_every_acknowledged_write_is_there_after_sigkill(url: str, tmp_path: Path) -> None:
    script = tmp_path / "writer.py"
    script.write_text(WRITER)
    died = await asyncio.create_subprocess_exec(
        sys.executable,
        script,
        url,
        env={"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT / 'worker'}:{ROOT / 'proto'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(died.communicate(), 60)
    assert died.returncode == -signal.SIGKILL, errors.decode()
    told = output.decode().split("\n")[:-1]
    accepted = {line for line in told if not line.startswith("end ")}
    finished = {line.removeprefix("end ") for line in told if line.startswith("end ")}
    assert len(accepted) > 100 and finished

    store = await JobStore.open(url)
    records = {record.id: record for record in await store.list(limit=1000)}
    unfinished = {record.id for record in await store.unfinished()}
    await store.close()
    assert accepted <= records.keys()
    assert not finished & unfinished
    # Whatever else is there was written whole: by the kill, its writer could not be told.
    assert all(record.idempotency_key == record.id for record in records.values())
