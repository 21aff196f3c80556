"""A worker pulls the probe of the peer that the router names, and tells how that went: once, and when it changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from contract.worker.conftest import Start
from diffusion_worker.link.probing import TOLD_AT, Probing
from diffusion_worker.transport import Descriptor, PeerDead, PoolFull, Probe, Slot, to_wire
from diffusion_worker.transport.memory import MemoryTransport
from diffusion_worker.transport.pull import Deadline
from diffusionpipeline.v1 import peer_pb2, stage_pb2
from testbed.waiting import eventually

ENCODE = stage_pb2.STAGE_ENCODE
POOL = 1 << 20
DEADLINE = 10.0


async def test_a_worker_tries_the_way_to_a_peer_and_says_so_again_when_it_comes_back(start: Start) -> None:
    encoder, denoiser = await start("encoder"), await start("denoiser")
    offered = (await encoder.stream()).register.probe
    stream = await denoiser.stream()
    assert not stream.register.probed
    await stream.send(probe=peer_pb2.Probe(stage=ENCODE, pod_name="encoder-0", payload=offered))
    await stream.until(lambda: bool(stream.said("probed")), "what it measured")
    probed = stream.said("probed")[0].probed
    assert (probed.stage, probed.pod_name, probed.error) == (ENCODE, "encoder-0", "")
    assert probed.bytes_per_second > 0
    families = text_string_to_metric_families((await denoiser.get("/metrics")).text)
    scraped = {sample.name: sample for family in families for sample in family.samples}
    metric = scraped["diffusion_worker_peer_pull_bytes_per_second"]
    assert metric.value == probed.bytes_per_second
    assert metric.labels["stage"] == "encode"
    stream.hang_up.set()
    again = await denoiser.stream(after=stream)
    assert list(again.register.probed) == [probed]
    for worker in (encoder, denoiser):
        await (await worker.stream()).slots_used(0)


async def test_a_worker_that_was_fenced_offers_another_probe(start: Start) -> None:
    encoder = await start("encoder")
    stream = await encoder.stream()
    await stream.send(refused=peer_pb2.Refused(reason=peer_pb2.REFUSAL_REASON_FENCED, message="lease ran out"))
    again = await encoder.stream(after=stream)
    assert again.register.incarnation != stream.register.incarnation
    assert again.register.probe.incarnation == again.register.incarnation
    await (await encoder.stream()).slots_used(0)


class Way(MemoryTransport):
    """That is closed for as long as `why` says something."""

    why = ""
    pulled = 0

    async def fetch(self, descriptor: Descriptor, slot: Slot, deadline: Deadline) -> int:
        self.pulled += 1
        if self.why:
            raise PeerDead(self.why)
        return await super().fetch(descriptor, slot, deadline)


class Reader:
    """What a worker has to try the way with, and a peer to try it to."""

    def __init__(self, pause: float) -> None:
        self.maker = MemoryTransport(pool_size=POOL, incarnation="maker")
        self.way = Way(pool_size=POOL, incarnation="reader")
        self.told: list[peer_pb2.Probed] = []
        self.pulled: list[int] = []
        """How often it had been tried when each was told."""
        self.measured: list[float] = []
        self.probing = Probing(
            self.way,
            self._tell,
            lambda stage, rate: self.measured.append(rate),
            first_pause=pause,
        )

    def ask(self, pod_name: str = "encoder-0") -> None:
        offered = Probe(self.maker.pool).offer()
        assert offered is not None
        self.probing.obey(peer_pb2.Probe(stage=ENCODE, pod_name=pod_name, payload=to_wire(offered, "g")))

    def _tell(self, report: peer_pb2.PeerReport) -> None:
        self.told.append(report.probed)
        self.pulled.append(self.way.pulled)

    async def until(self, told: int) -> peer_pb2.Probed:
        await eventually(lambda: len(self.told) >= told, DEADLINE, f"{told} reports were made")
        return self.told[-1]


@pytest.fixture
async def reader(request: pytest.FixtureRequest) -> AsyncIterator[Reader]:
    """Which pauses for no time that counts, unless the test says for how long."""
    reader = Reader(getattr(request, "param", 0.001))
    yield reader
    reader.probing.close()
    await reader.way.close()
    await reader.maker.close()


async def test_a_way_that_stays_closed_is_told_once_and_that_it_opened_at_last(reader: Reader) -> None:
    reader.way.why = "connection refused"
    reader.ask()
    failed = await reader.until(1)
    assert "connection refused" in failed.error
    assert reader.pulled == [TOLD_AT]
    assert list(reader.probing.found()) == [failed]
    await eventually(lambda: reader.way.pulled >= TOLD_AT + 3, DEADLINE, "it is tried on")
    assert len(reader.told) == 1
    reader.way.why = ""
    opened = await reader.until(2)
    assert not opened.error and opened.bytes_per_second == reader.measured[0] > 0
    assert list(reader.probing.found()) == [opened]


@pytest.mark.parametrize("reader", [3600.0], indirect=True)
async def test_a_peer_that_goes_before_a_failure_has_stood_is_not_spoken_of(reader: Reader) -> None:
    reader.way.why = "connection refused"
    reader.ask("encoder-0")
    await eventually(lambda: reader.way.pulled >= 1, DEADLINE, "the first pull failed")
    reader.way.why = ""
    reader.ask("encoder-1")
    assert (await reader.until(1)).pod_name == "encoder-1"
    assert [probed.error for probed in reader.told] == [""]


async def test_when_no_peer_is_left_the_failure_is_forgotten_and_nothing_is_tried(reader: Reader) -> None:
    before = asyncio.all_tasks()
    reader.way.why = "connection refused"
    reader.ask()
    await reader.until(1)
    trying = asyncio.all_tasks() - before
    assert trying
    reader.probing.obey(peer_pb2.Probe(stage=ENCODE))
    assert list(reader.probing.found()) == []
    await asyncio.wait(trying, timeout=DEADLINE)
    assert asyncio.all_tasks() == before


async def test_a_pool_that_is_full_says_nothing_of_the_way(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, lease, refused = reader.way.pool, reader.way.pool.lease, 0

    def counting(nbytes: int, owner: str) -> Slot:
        nonlocal refused
        try:
            return lease(nbytes, owner)
        except PoolFull:
            refused += 1
            raise

    filled = pool.lease(POOL - 4096, "job")
    monkeypatch.setattr(pool, "lease", counting)
    reader.ask()
    await eventually(lambda: refused > 2 * TOLD_AT, DEADLINE, "it is tried again and again")
    assert reader.told == [] and reader.way.pulled == 0
    reader.way.pool.release(filled)
    assert (await reader.until(1)).bytes_per_second > 0


@pytest.mark.parametrize("length", [1, 1 << 40])
async def test_a_probe_that_cannot_be_is_a_failure_like_another(reader: Reader, length: int) -> None:
    payload: dict[str, Any] = {"incarnation": "maker", "mode": "memory", "url": reader.maker.pool.url, "length": length}
    reader.probing.obey(peer_pb2.Probe(stage=ENCODE, pod_name="encoder-0", payload=stage_pb2.Descriptor(**payload)))
    assert (await reader.until(1)).error
    assert reader.way.pool.slots_used == 0
