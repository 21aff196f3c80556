"""The worker as a process: `python -m diffusion_worker`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from diffusion_worker.model import load_model, resolve_model
from diffusionpipeline.words import Stage
from testbed.processes import killed_at_the_end
from testbed.waiting import eventually

from .conftest import Start
from .gated_model import GatedModel
from .scripted_router import DECODE, DENOISE, ENCODE, ScriptedRouter

DEADLINE = 240.0
HANGING = Path(__file__).with_name("hanging_worker.py")

Process = asyncio.subprocess.Process
Spawn = Callable[..., Awaitable[Process]]


@pytest.fixture
async def spawn(router: ScriptedRouter, tmp_path: Path) -> AsyncIterator[Spawn]:
    """Starts worker processes with these flags."""

    async def spawn(*flags: str, program: Sequence[str] = ("-m", "diffusion_worker")) -> Process:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DIFFUSION_WORKER_")}
        environment |= {
            "DIFFUSION_WORKER_ROUTER": f"127.0.0.1:{router.port}",
            "DIFFUSION_WORKER_BACKEND": "tcp",
            "DIFFUSION_WORKER_POOL_SIZE": str(1 << 24),
            "DIFFUSION_WORKER_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *program,
            *flags,
            env=environment,
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        processes.append(process)
        return process

    async with killed_at_the_end() as processes:
        yield spawn


async def outcome(process: Process) -> tuple[int, str]:
    """Exit status, and what was said on either stream."""
    out, err = await asyncio.wait_for(process.communicate(), DEADLINE)
    assert process.returncode is not None
    return process.returncode, (out + err).decode()


async def test_the_bundled_model_makes_a_picture_and_sigterm_ends_the_worker_cleanly(
    router: ScriptedRouter, spawn: Spawn
) -> None:
    process = await spawn("--role", "encoder,denoiser", "--role", "decoder", "--drain-seconds", "20")
    # Loading a model takes longer than a stream's own deadline.
    await eventually(lambda: router.streams or process.returncode is not None, DEADLINE, "the worker attaches or ends")
    assert process.returncode is None, await outcome(process)
    stream = await router.attached()
    assert len(stream.register.roles) == 3
    assert stream.register.model.digest
    await stream.execute(DENOISE, "n", source=await stream.encoded())
    await stream.execute(DECODE, "d", source=(await stream.done("n")).output)
    (artifact,) = (await stream.done("d")).artifacts
    assert router.files[artifact.key].startswith(b"\x89PNG")
    process.send_signal(signal.SIGTERM)
    for task in ("e", "n", "d"):
        await stream.release(task)
    status, said = await outcome(process)
    assert status == 0, said
    assert stream.said("drained")


@pytest.mark.usefixtures("one_thread")
async def test_i12_a_new_process_goes_on_with_what_another_parked(
    router: ScriptedRouter, start: Start, spawn: Spawn
) -> None:
    path = resolve_model("Bundled", "digits", "")
    model = GatedModel(load_model(path=path, stages=frozenset(Stage), dtype="float32", device="cpu"))
    parks = await (await start(model=model, backend="tcp", generation="g1")).stream()
    source = await parks.encoded()
    await parks.execute(DENOISE, "undisturbed", source=source)
    whole = await parks.done("undisturbed")
    gate = model.stop(7, 2)
    await parks.execute(DENOISE, "n", source=source)
    await gate.reached()
    await parks.park("n")
    await parks.heard()
    gate.open()
    checkpoint = (await parks.done("n")).output

    process = await spawn("--role", "denoiser", "--pod-name", "new", "--generation", "g1")
    await eventually(lambda: len(router.streams) > 1 or process.returncode is not None, DEADLINE, "it attaches or ends")
    assert process.returncode is None, await outcome(process)
    resumes = await router.attached("new")
    await resumes.execute(DENOISE, "goes on", source=checkpoint)
    assert (await resumes.done("goes on")).output.digest == whole.output.digest


async def test_sigterm_while_the_model_loads_ends_the_worker_cleanly(spawn: Spawn) -> None:
    process = await spawn("--role", "encoder")
    assert process.stderr is not None
    line = await asyncio.wait_for(process.stderr.readline(), DEADLINE)
    assert b"worker_starting" in line
    process.send_signal(signal.SIGTERM)
    status, said = await outcome(process)
    assert status == 0, said


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (["--role", "painter"], 2, "--role (DIFFUSION_WORKER_ROLES): Input should be 'encoder', 'denoiser' or"),
        (["--role", "encoder", "--pool-size", "lots"], 2, "--pool-size (DIFFUSION_WORKER_POOL_SIZE): Input should be"),
        (["--role", "encoder", "--router", "nowhere"], 2, "--router (DIFFUSION_WORKER_ROUTER): 'nowhere' is not host:"),
        ([], 2, "--role (DIFFUSION_WORKER_ROLES): Field required"),
        (["--role", "encoder", "--model-source", "Path", "--model-id", "/nowhere"], 3, "there is no folder /nowhere"),
        (["--role", "encoder", "--fallback", "Deny", "--protocol", "rdma"], 5, "backend tcp has no RDMA"),
    ],
    ids=["role", "number", "address", "nothing", "model", "transport"],
)
async def test_what_is_set_wrong_is_said_in_one_line_without_a_traceback(
    spawn: Spawn, flags: list[str], status: int, words: str
) -> None:
    found, said = await outcome(await spawn(*flags))
    assert found == status, said
    assert words in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("what", "status", "words"),
    [
        ("stage", 6, "encode (the default size) stands still for "),
        ("leaving", 6, "encode (the default size) stands still for "),
        ("loop", 6, "the event loop has not answered for "),
        # Nobody in the process can say anything but where its threads are.
        ("lock", 1, "hanging_worker.py"),
    ],
)
async def test_i13_a_worker_ends_whatever_hangs(
    router: ScriptedRouter, spawn: Spawn, what: str, status: int, words: str
) -> None:
    flags = ("--role", "encoder", "--log-format", "json", "--stall-seconds", "2", "--stall-first-seconds", "2")
    process = await spawn(*flags, program=(str(HANGING), what))
    await eventually(lambda: router.streams or process.returncode is not None, DEADLINE, "the worker attaches or ends")
    assert process.returncode is None, await outcome(process)
    stream = await router.attached()
    await stream.execute(ENCODE, "hung")
    found, said = await outcome(process)
    assert found == status, said
    last = said.splitlines()[-1] if status == 6 else said
    assert words in last
    if what == "stage":
        assert await stream.failed("hung") == "STALLED"
        assert stream.said("drained")
        assert json.loads(last)["event"] == "worker_failed"


def test_what_a_worker_opens_and_says_first_waits_for_no_torch() -> None:
    # So devices, ports and memory that it lacks are told at once, and an engine starts while torch is imported.
    program = "import sys, diffusion_worker.app; assert 'torch' not in sys.modules, 'torch came with it'"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
