"""In the other guest: a producer that is told what to do by files in a folder that both guests see."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from contract.transport.peers import eventually, settings
from contract.transport.producer import Producer
from diffusion_worker.transport import Transport, open_transport
from testbed import waiting

FOLDER = Path("/share/out/far")
SECONDS = 400.0
ADDRESS = "10.78.0.1"


async def until_there(file: Path, seconds: float) -> dict[str, Any]:
    await waiting.eventually(file.exists, seconds, f"{file} is there", pause=0.05)
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def put(file: Path, content: dict[str, Any]) -> None:
    """All at once: the other guest looks for it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(content))
    draft.rename(file)


class Far:
    """The near node's handle of the far one."""

    def __init__(self) -> None:
        self._asked = 0

    async def ask(self, seconds: float = 60.0, **command: Any) -> dict[str, Any]:
        self._asked += 1
        put(FOLDER / f"ask-{self._asked}.json", command)
        return await until_there(FOLDER / f"answer-{self._asked}.json", seconds)


async def new_producer() -> Producer:
    own = settings("mooncake-rdma") | {"host": ADDRESS}
    return Producer(await open_transport(**own, incarnation=os.urandom(16).hex()))


async def failure(transport: Transport) -> str | None:
    await eventually(lambda: transport.failure is not None)
    return transport.failure


def set_card(state: str) -> None:
    subprocess.run(["ip", "link", "set", "eth0", state], check=True, timeout=10)


async def main() -> None:
    producer = await new_producer()
    for number in range(1, sys.maxsize):
        command = await until_there(FOLDER / f"ask-{number}.json", SECONDS)
        answer: dict[str, Any] = {}
        match command["do"]:
            case "end":
                pass
            case "set_card":
                set_card(command["state"])
            case "wait_for_failure":
                answer = {"failure": await failure(producer.transport)}
            case "renew":
                await producer.transport.close()
                producer = await new_producer()
            case _:
                answer = producer.carry_out(dict(command))
        put(FOLDER / f"answer-{number}.json", answer)
        if command["do"] == "end":
            os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
