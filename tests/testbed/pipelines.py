"""Whole pipelines for tests, run as the processes that `dpipe up` makes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from grpc import insecure_channel

from diffusion_operator.api import load_pipeline
from diffusionpipeline.v1 import registry_pb2, registry_pb2_grpc
from dpipe.up.local import LocalPipeline
from testbed.exposition import total
from testbed.waiting import until

STARTUP_SECONDS = 120.0
JOB_SECONDS = 60.0


@contextlib.contextmanager
def running(document: dict[str, Any], folder: Path, *, restart: bool = True) -> Iterator[LocalPipeline]:
    with LocalPipeline(load_pipeline(document), data_dir=folder, restart=restart) as local:
        local.wait_ready(STARTUP_SECONDS)
        until(lambda: ready(local), STARTUP_SECONDS, "the router sees a worker of each role")
        yield local


def ready(local: LocalPipeline) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{local.http_url}/readyz").status_code == 200
    return False


def peers(local: LocalPipeline) -> dict[str, registry_pb2.Peer]:
    return {peer.pod_name: peer for peer in registered(local.grpc_address)}


def registered(router: str) -> list[registry_pb2.Peer]:
    """The peers of the router whose gRPC interface is at this host:port. Raises RpcError."""
    with insecure_channel(router) as channel:
        stub = registry_pb2_grpc.RegistryServiceStub(channel)
        return list(stub.ListPeers(registry_pb2.ListPeersRequest(), timeout=5).peers)


def at_rest(local: LocalPipeline) -> bool:
    return idle(peers(local).values())


def idle(peers: Iterable[registry_pb2.Peer]) -> bool:
    """No peer owns a task, keeps an output for a job that it has, or has a slot in use but for jobs to come."""
    return all(peer.tasks == peer.outputs == 0 and peer.slots_used == peer.cached_outputs for peer in peers)


def metric(url: str, name: str, /, **labels: str) -> float:
    """The sum over all series of this name that have these labels."""
    return total(httpx.get(f"{url}/metrics").raise_for_status().text, name, **labels)


@dataclass(frozen=True)
class Answer:
    request: str
    picture: bytes
    seconds: float
    ended_at: float
    jobs: tuple[str, ...]


async def draw(client: httpx.AsyncClient, prompt: str, seed: int, **fields: Any) -> Answer:
    """One picture, by one synchronous request."""
    start = time.monotonic()
    body = {"prompt": prompt, "seed": seed, **fields}
    answer = await client.post("/v1/images/generations", json=body, timeout=JOB_SECONDS)
    assert answer.status_code == 200, answer.text
    reply = answer.json()
    now = time.monotonic()
    picture = base64.b64decode(reply["data"][0]["b64_json"])
    return Answer(f"{prompt} #{seed}", picture, now - start, now, tuple(reply["jobs"]))


class Load:
    """Clients that ask for one picture after the other and compare each with what it must be.

    `expected` is learnt by asking for each picture once, alone, before the fault.
    """

    REQUESTS = (
        ("a red seven", 0),
        ("a blue three", 1),
        ("a green one", 2),
        ("a yellow eight", 3),
        ("a white zero", 4),
        ("a cyan four", 5),
    )

    def __init__(self, local: LocalPipeline, *, clients: int, **fields: Any) -> None:
        self._local = local
        self._clients = clients
        self._fields = fields
        self.expected: dict[str, bytes] = {}
        self.answers: list[Answer] = []

    async def learn(self) -> None:
        async with httpx.AsyncClient(base_url=self._local.http_url) as client:
            for prompt, seed in self.REQUESTS:
                answer = await draw(client, prompt, seed, **self._fields)
                self.expected[answer.request] = answer.picture

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Asks until the body ends, then waits for what was asked. Raises what any client met."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for number in range(self._clients):
                group.create_task(self._client(number, stop))
            try:
                yield
            finally:
                stop.set()

    async def _client(self, number: int, stop: asyncio.Event) -> None:
        async with httpx.AsyncClient(base_url=self._local.http_url) as client:
            turn = number
            while not stop.is_set():
                prompt, seed = self.REQUESTS[turn % len(self.REQUESTS)]
                answer = await draw(client, prompt, seed, **self._fields)
                assert answer.picture == self.expected[answer.request], f"{answer.request} is another picture"
                self.answers.append(answer)
                turn += 1
