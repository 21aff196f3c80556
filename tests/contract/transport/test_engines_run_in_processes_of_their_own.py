"""Mooncake's engines in their own processes: what they are told, what they must refuse, how they end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from typing import Any

import pytest

from contract.transport.peers import MOONCAKE, ProcessPeer, StartPeer, eventually, processes_of, pulled, settings
from contract.transport.producer import content
from diffusion_worker.engine.url import PoolUrl
from diffusion_worker.transport import EngineInitFailed, TransferTimeout, Transport, mooncake, open_transport
from diffusion_worker.transport.engine_process import EngineProcess, EngineSettings, environment
from diffusion_worker.transport.pool import allocate

SIZE = 1 << 20
pytestmark = pytest.mark.backends(*MOONCAKE)


@pytest.fixture
async def start_engine() -> AsyncIterator[Any]:
    started: list[EngineProcess] = []
    file = os.memfd_create("test-pool")
    allocate(SIZE, file)

    async def start(patience: float = 0.5, serves: bool = True, **changes: Any) -> EngineProcess:
        ports = settings("mooncake-tcp")
        chosen = EngineSettings("127.0.0.1", "tcp", "", ports["port_min"], ports["port_max"])._replace(**changes)
        engine = await EngineProcess.start(file, SIZE, chosen, patience, serves=serves)
        started.append(engine)
        return engine

    yield start
    for engine in started:
        await engine.kill()
    os.close(file)


async def test_an_engine_says_where_its_pool_is(start_engine: Any) -> None:
    url = PoolUrl.parse((await start_engine()).url)
    assert (url.mode, url.size) == ("mooncake-tcp", SIZE)
    assert url.address % 4096 == 0


async def test_rdma_without_a_device_fails_instead_of_using_tcp(start_engine: Any) -> None:
    with pytest.raises(EngineInitFailed, match="Mooncake did not start for rdma"):
        await start_engine(protocol="rdma", devices="no_such_device")


async def test_a_port_range_that_is_taken_is_reported_in_time(start_engine: Any) -> None:
    first = await start_engine()
    port = int(PoolUrl.parse(first.url).endpoint.rpartition(":")[2])
    with pytest.raises(EngineInitFailed, match=f"ports {port} to {port}.*no port of the range is free"):
        await start_engine(port_min=port, port_max=port)


async def test_a_port_range_that_mooncake_would_ignore_is_refused(start_engine: Any) -> None:
    with pytest.raises(EngineInitFailed, match="not in 40000 to 40010"):
        await start_engine(port_min=40_000, port_max=40_010)


async def test_an_engine_that_is_killed_is_seen_to_end(start_engine: Any) -> None:
    engine = await start_engine()
    assert engine.alive
    await asyncio.wait_for(engine.kill(), 2)
    assert not engine.alive
    assert await engine.wait() == -signal.SIGKILL


def test_the_choice_of_network_and_ports_is_always_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MC_FORCE_TCP", "0")
    monkeypatch.setenv("MC_FORCE_HCA", "1")
    monkeypatch.setenv("MC_MIN_RPC_PORT", "1")
    monkeypatch.setenv("MC_LOG_DIR", "/tmp")
    monkeypatch.setenv("MC_SLICE_TIMEOUT", "3")
    tcp = environment(EngineSettings("::1", "tcp", "", 20_000, 20_010))
    assert (tcp["MC_FORCE_TCP"], tcp["MC_MIN_RPC_PORT"], tcp["MC_MAX_RPC_PORT"]) == ("1", "20000", "20010")
    assert (tcp["MC_SLICE_TIMEOUT"], tcp["MC_USE_IPV6"]) == ("3", "1")
    assert {"MC_FORCE_HCA", "MC_LOG_DIR"}.isdisjoint(tcp)
    rdma = environment(EngineSettings("10.0.0.1", "rdma", "mlx5_0", 20_000, 20_010))
    assert rdma["MC_FORCE_HCA"] == "1"
    assert {"MC_FORCE_TCP", "MC_USE_IPV6"}.isdisjoint(rdma)


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ("import mooncake.engine", "already imported"),
        ("import os; del os.environ['MC_FORCE_TCP']", "MC_FORCE_TCP=1"),
        ("import os; os.environ['MC_FORCE_HCA'] = '1'", "not MC_FORCE_HCA"),
    ],
)
def test_an_engine_is_not_made_where_its_settings_would_not_count(before: str, message: str) -> None:
    program = f"""
        {before}
        from diffusion_worker.engine.guard import Engine, EngineUnavailableError
        try:
            Engine.open(host="127.0.0.1", protocol="tcp", devices="", address=4096, size=4096,
                        port_min=31900, port_max=31910, patience=0, serves=True)
        except EngineUnavailableError as error:
            print(error)
    """
    chosen = environment(EngineSettings("127.0.0.1", "tcp", "", 31_900, 31_910))
    done = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(program)], env=chosen, capture_output=True, text=True, timeout=60
    )
    assert message in done.stdout, done.stderr


def test_an_engines_process_imports_next_to_nothing_so_that_a_peer_is_met_at_once() -> None:
    heavy = {"asyncio", "google.protobuf", "grpc", "numpy", "structlog", "torch", "diffusion_worker.transport"}
    program = f"import sys, diffusion_worker.engine.program; assert not {heavy} & sys.modules.keys(), sys.modules"
    subprocess.run([sys.executable, "-P", "-c", program], check=True, timeout=60)


async def test_a_worker_that_is_killed_takes_its_engines_with_it(start_peer: StartPeer) -> None:
    peer: ProcessPeer = await start_peer()
    group = os.getpgid(peer.pid)
    assert len(processes_of(group)) > 1
    await peer.kill()
    await eventually(lambda: not processes_of(group))


async def test_a_worker_whose_pool_is_no_longer_served_says_so() -> None:
    transport: Any = await open_transport(**settings("mooncake-tcp", SIZE), incarnation="a")
    transport._server._process.kill()
    await eventually(lambda: transport.failure is not None)
    assert "ended with status -9" in transport.failure
    await transport.close()


async def test_a_worker_whose_pools_engine_is_silent_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped, or waiting for what never comes: to those who pull it looks like a slow network."""
    monkeypatch.setattr(mooncake, "PING_SECONDS", 0.2)
    transport: Any = await open_transport(**settings("mooncake-tcp", SIZE), incarnation="a")
    pinged = [0]
    ping = transport._server.ping

    def counted() -> Any:
        pinged[0] += 1
        return ping()

    monkeypatch.setattr(transport._server, "ping", counted)
    await eventually(lambda: pinged[0] > 3)
    assert transport.failure is None
    os.kill(transport._server._process.pid, signal.SIGSTOP)
    await eventually(lambda: transport.failure is not None)
    assert "was silent for" in transport.failure
    await transport.close()


async def test_an_engine_that_crashes_costs_one_pull(start_peer: StartPeer, consumer: Any) -> None:
    peer: ProcessPeer = await start_peer()
    descriptor = peer.publish(1, 100_000)
    assert await pulled(consumer, descriptor) == content(1, 100_000)
    link = consumer._links[descriptor.incarnation]
    link.starting.result()._process.send_signal(signal.SIGSEGV)
    await eventually(lambda: not link.usable)
    assert await pulled(consumer, descriptor) == content(1, 100_000)


async def test_an_engine_that_stands_still_costs_one_pull_its_deadline(start_peer: StartPeer, consumer: Any) -> None:
    peer: ProcessPeer = await start_peer()
    descriptor = peer.publish(1, 100_000)
    assert await pulled(consumer, descriptor) == content(1, 100_000)
    consumer._links[descriptor.incarnation].starting.result()._process.send_signal(signal.SIGSTOP)
    with pytest.raises(TransferTimeout):
        await pulled(consumer, descriptor, timeout=1)
    assert await pulled(consumer, descriptor) == content(1, 100_000)


async def test_what_the_library_writes_to_stderr_stays_out_of_ours(
    start_peer: StartPeer, consumer: Transport, capfd: pytest.CaptureFixture[str]
) -> None:
    peer: ProcessPeer = await start_peer()
    await pulled(consumer, peer.publish(1, 1000))
    assert "InitGoogleLogging" not in capfd.readouterr().err
