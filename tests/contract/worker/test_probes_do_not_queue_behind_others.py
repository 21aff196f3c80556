"""Whoever holds connections to a worker's health ports, the kubelet gets its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from diffusion_worker.health import MAX_REQUESTS, MAX_WATCHERS

from .conftest import DEADLINE, Start, Worker

ASKING = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def connect(worker: Worker, stack: AsyncExitStack, said: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.ports.http)
    stack.callback(writer.close)
    writer.write(said)
    if said == ASKING:
        status = await asyncio.wait_for(reader.readline(), DEADLINE)
        assert b" 200 " in status


@pytest.mark.parametrize("said", [b"", b"GET /heal", ASKING], ids=["silent", "half a request", "idle"])
async def test_connections_that_ask_for_nothing_keep_no_probe_out(
    start: Start, stack: AsyncExitStack, said: bytes
) -> None:
    worker = await start()
    await worker.stream()
    for _ in range(8 * MAX_REQUESTS):
        await connect(worker, stack, said)
    for path in ("/healthz", "/metrics"):
        assert (await worker.get(path)).status_code == 200


async def test_those_who_watch_by_grpc_keep_out_nobody_who_asks(start: Start, stack: AsyncExitStack) -> None:
    worker = await start()
    await worker.stream()
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{worker.ports.grpc}"))
    health = health_pb2_grpc.HealthStub(channel)
    watching = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(2 * MAX_REQUESTS)]
    first = await asyncio.gather(*(anext(aiter(watch)) for watch in watching), return_exceptions=True)
    answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    refused = [error for error in first if isinstance(error, grpc.aio.AioRpcError)]
    assert len(first) - len(refused) == MAX_WATCHERS
    assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    for watch in watching:
        watch.cancel()
