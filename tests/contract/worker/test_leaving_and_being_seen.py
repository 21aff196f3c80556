"""Draining, probes and metrics."""

from __future__ import annotations

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from diffusion_worker.ends import TransportFailed
from diffusion_worker.transport import Descriptor, EngineInitFailed, PeerDead, Slot
from diffusion_worker.transport.memory import MemoryTransport
from diffusionpipeline.v1 import peer_pb2
from testbed.waiting import eventually

from .conftest import Start, Worker
from .scripted_router import DENOISE, ENCODE, ScriptedRouter

DEADLINE = 10.0


async def test_a_worker_that_leaves_finishes_hands_back_and_waits_for_its_outputs(start: Start) -> None:
    worker = await start(drain_seconds=10.0)
    stream = await worker.stream()
    worker.model.hold = True
    await stream.execute(DENOISE, "n", source=await stream.encoded())
    await stream.step("n", 0)
    await stream.execute(ENCODE, "waiting")
    worker.stop.set()
    assert await stream.failed("waiting") == "HANDED_BACK"
    await stream.until(lambda: any(r.heartbeat.draining for r in stream.said("heartbeat")), "draining")
    await stream.execute(ENCODE, "new")
    assert await stream.failed("new") == "HANDED_BACK"
    assert "draining" in (await worker.get("/readyz")).text
    worker.model.let_go(4)
    await stream.done("n")
    await stream.release("e")
    assert not stream.said("drained")
    await stream.release("n")
    await stream.until(lambda: bool(stream.said("drained")), "drained")
    await worker.ended()


async def test_a_drain_is_bounded_though_nobody_releases_anything(start: Start) -> None:
    worker = await start(drain_seconds=0.2)
    stream = await worker.stream()
    worker.model.step_seconds = 0.05
    await stream.execute(DENOISE, "n", source=await stream.encoded("e", num_inference_steps=1000))
    await stream.step("n", 1)
    worker.stop.set()
    await stream.until(lambda: bool(stream.said("drained")), "drained")
    assert await stream.failed("n") == "HANDED_BACK"
    await worker.ended()


async def test_what_a_worker_measured_by_pulling_from_itself_is_told_to_the_router_and_scraped(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    proof = stream.register.pool.proof
    assert proof.bytes_per_second > 0 and proof.seconds > 0
    families = text_string_to_metric_families((await worker.get("/metrics")).text)
    scraped = {sample.name: sample.value for family in families for sample in family.samples}
    assert scraped["diffusion_worker_self_pull_bytes_per_second"] == proof.bytes_per_second
    assert scraped["diffusion_worker_self_pull_seconds"] == proof.seconds


async def test_a_worker_that_cannot_pull_from_itself_ends_and_never_registers(
    start: Start, router: ScriptedRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fetch(self: MemoryTransport, descriptor: Descriptor, slot: Slot, deadline: object) -> int:
        raise PeerDead("the engine could not read")

    monkeypatch.setattr(MemoryTransport, "fetch", fetch)
    worker = await start()
    with pytest.raises(EngineInitFailed, match="the engine could not read"):
        await worker.ended()
    assert not router.streams


async def test_the_router_may_ask_a_worker_to_leave(start: Start) -> None:
    worker = await start()
    stream = await worker.stream()
    await stream.send(drain=peer_pb2.Drain())
    await stream.until(lambda: bool(stream.said("drained")), "drained")
    await worker.ended()


async def test_a_worker_leaves_though_the_router_is_away(router: ScriptedRouter, start: Start) -> None:
    worker = await start(drain_seconds=0.2)
    stream = await worker.stream()
    await stream.execute(ENCODE, "e")
    await stream.done("e")
    await router.stop()
    worker.stop.set()
    await worker.ended()


async def grpc_health(worker: Worker, service: str) -> str:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{worker.ports.grpc}") as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=DEADLINE)
    name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return name


async def test_alive_is_not_ready_until_the_router_answered(router: ScriptedRouter, start: Start) -> None:
    await router.stop()
    worker = await start("encoder")
    assert (await worker.get("/healthz")).status_code == 200
    assert (await worker.get("/readyz")).status_code == 503
    assert await grpc_health(worker, "") == "SERVING"
    assert await grpc_health(worker, "diffusionpipeline.v1.PeerService") == "NOT_SERVING"
    await router.start()
    stream = await worker.stream()
    await stream.slots_used(0)
    assert (await worker.get("/readyz")).status_code == 200
    assert await grpc_health(worker, "diffusionpipeline.v1.PeerService") == "SERVING"
    await router.stop()
    await stream.until(lambda: stream.ended, "end")

    async def unready() -> bool:
        return (await worker.get("/readyz")).status_code != 200

    await eventually(unready, DEADLINE, "it is not ready")
    assert "router" in (await worker.get("/readyz")).text
    assert (await worker.get("/healthz")).status_code == 200


async def test_the_metrics_parse_and_count(start: Start) -> None:
    encoder, denoiser = await start("encoder"), await start("denoiser")
    made, used = await encoder.stream(), await denoiser.stream()
    source = await made.encoded()
    await used.execute(DENOISE, "n", source=source)
    await used.done("n")
    source.digest += 1
    await used.execute(DENOISE, "bad", source=source)
    await used.failed("bad")
    families = text_string_to_metric_families((await denoiser.get("/metrics")).text)
    samples = {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}
    role = ("role", "denoiser")
    prefix = "diffusion_worker_"
    assert samples[f"{prefix}steps_total", (role,)] == 4
    assert samples[f"{prefix}stage_duration_seconds_count", (role,)] == 1
    assert samples[f"{prefix}step_duration_seconds_count", (role,)] == 4
    assert samples[f"{prefix}transfer_bytes_total", (role,)] > 1024
    assert samples[f"{prefix}transfer_duration_seconds_count", (role,)] == 1
    assert samples[f"{prefix}transfer_failures_total", (("kind", "stale_descriptor"), role)] == 1
    assert samples[f"{prefix}tasks_total", (("outcome", "done"), role)] == 1
    assert samples[f"{prefix}tasks_total", (("outcome", "transfer"), role)] == 1
    assert samples[f"{prefix}tasks_inflight", (role,)] == 0
    assert samples[f"{prefix}pool_bytes", (role,)] == 1 << 20
    assert samples[f"{prefix}slots_used", (role,)] == 1
    assert samples[f"{prefix}slots_quarantined", (role,)] == 0
    assert samples[f"{prefix}transport_info", (("mode", "memory"), role)] == 1
    assert samples[f"{prefix}router_connected", (role,)] == 1


async def test_a_worker_registers_with_all_that_others_must_agree_on(start: Start) -> None:
    register = (await (await start("denoiser", model_id="m")).stream()).register
    assert len(register.incarnation) == 32
    assert (register.pod_name, register.generation, register.capacity) == ("denoiser-0", "g1", 1)
    assert (register.model.id, register.model.makes) == ("m", "image")
    assert (register.pool.mode, register.pool.size) == ("memory", 1 << 20)
    assert {"python", "torch", "diffusers", "transformers", "diffusion-operator"} <= set(register.versions)
    assert not register.draining


async def test_a_worker_whose_pool_can_no_longer_be_served_ends_and_says_why(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await start()
    await worker.stream()
    monkeypatch.setattr(MemoryTransport, "failure", "the engine died")
    with pytest.raises(TransportFailed, match="the engine died"):
        await worker.ended()
