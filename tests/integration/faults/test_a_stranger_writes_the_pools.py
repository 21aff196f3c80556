"""A stranger at Mooncake's ports writes all over the pools while requests are served: all answers are right (I2)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from diffusion_worker.engine.url import PoolUrl
from testbed.examples import resource
from testbed.pipelines import JOB_SECONDS, Load, peers, running

ROUNDS = 4
CLIENTS = 4

# Slots are taken from a pool's front. One byte at a time, so that most of what is written is in no header and no seal.
STRANGER = """
    import ctypes, json, random, select, sys
    from mooncake.engine import TransferEngine

    pools, reach = json.loads(sys.argv[1]), 256 << 10
    engine, chance = TransferEngine(), random.Random(1)
    assert engine.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") == 0
    memory = ctypes.create_string_buffer(bytes([255]) * 4096)
    address = ctypes.addressof(memory)
    assert engine.register_memory(address, 4096) == 0
    written = 0
    print(flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        for endpoint, first in pools:
            batch = engine.transfer_submit_write(endpoint, address, first + chance.randrange(reach), 1)
            while batch and (code := engine.transfer_check_status(batch)) == 0:
                pass
            written += bool(batch) and code == 1
    print(written, flush=True)
"""


@contextlib.contextmanager
def stranger(pools: Sequence[PoolUrl]) -> Iterator[list[int]]:
    """Writes for as long as the body takes; then the list has how many bytes were written."""
    program = [sys.executable, "-c", textwrap.dedent(STRANGER)]
    arguments = json.dumps([[pool.endpoint, pool.address] for pool in pools])
    ports = {"MC_MIN_RPC_PORT": "19000", "MC_MAX_RPC_PORT": "19063"}
    environment = os.environ | {"MC_FORCE_TCP": "1", "MC_LOG_LEVEL": "ERROR", **ports}
    written: list[int] = []
    with subprocess.Popen(
        [*program, arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield written
            process.stdin.close()
            written.append(int(process.stdout.readline()))
        finally:
            process.kill()


async def test_i2_a_stranger_who_writes_mooncakes_pools_spoils_no_picture(tmp_path: Path) -> None:
    with running(resource("digits"), tmp_path) as local:
        load = Load(local, clients=1, num_inference_steps=16)
        await load.learn()
        pools = [PoolUrl.parse(peer.pool.url) for peer in peers(local).values()]
        answered: list[bool] = []
        with stranger(pools) as written:
            async with httpx.AsyncClient(base_url=local.http_url) as client:
                for _ in range(ROUNDS):
                    answered += await asyncio.gather(*(ask(client, load, number) for number in range(CLIENTS)))
        assert written[0] > len(answered), "fewer bytes than pictures"
        assert any(answered), "no picture came, right or wrong"
        async with httpx.AsyncClient(base_url=local.http_url) as client:
            assert await ask(client, load, 0), "nothing is left of him"


async def ask(client: httpx.AsyncClient, load: Load, number: int) -> bool:
    """Whether there was an answer. A job may fail: what was written there is seen, and made anew only so often."""
    prompt, seed = load.REQUESTS[number]
    body = {"prompt": prompt, "seed": seed, "num_inference_steps": 16}
    answer = await client.post("/v1/images/generations", json=body, timeout=JOB_SECONDS)
    if answer.status_code != 200:
        return False
    picture = base64.b64decode(answer.json()["data"][0]["b64_json"])
    assert picture == load.expected[f"{prompt} #{seed}"], f"{prompt} is another picture"
    return True
