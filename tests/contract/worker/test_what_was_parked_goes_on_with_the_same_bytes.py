"""I12 with real models: parked on one worker and gone on with on another, a denoising makes the bytes that it would
have made undisturbed, whatever it is computed with and however the checkpoint came."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from contract.transport.peers import BACKENDS, here, settings
from diffusion_worker.model import (
    AdapterFile,
    AdapterFiles,
    ControlNetFiles,
    IPAdapterFiles,
    SchedulerKind,
    load_model,
    resolve_model,
)
from diffusionpipeline.v1 import peer_pb2, stage_pb2
from diffusionpipeline.words import Stage
from testbed.led_digits import control_net
from testbed.shown_digits import ip_adapters
from testbed.zoo import FAMILIES
from testbed.zoo.cache import ensure

from .conftest import Start, Worker
from .gated_model import GatedModel
from .scripted_router import DECODE, DENOISE, ENCODE, ScriptedRouter, Stream

SEED = 7
POOL_SIZE = 1 << 24
PICTURES = ("image", "controls", "ip_adapters")

Loaded = tuple[GatedModel, GatedModel]


pytestmark = pytest.mark.usefixtures("one_thread")


def load(path: Path, **beside: Any) -> GatedModel:
    return GatedModel(load_model(path=path, stages=frozenset(Stage), dtype="float32", device="cpu", **beside))


@pytest.fixture(scope="module")
def digits() -> Loaded:
    """Two of them, for each worker computes on a thread of its own."""
    path = resolve_model("Bundled", "digits", "")
    return load(path), load(path)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """The bundled model with all that a request may be computed with."""
    place = tmp_path_factory.mktemp("beside")
    shown = ip_adapters(place / "shown")
    layer = "transformer.transformer_blocks.0.attn.to_q"
    lora = {f"{layer}.lora_A.weight": torch.ones(4, 128), f"{layer}.lora_B.weight": torch.ones(128, 4)}
    save_file(lora, place / "lora.safetensors")
    beside: dict[str, Any] = {
        "adapters": AdapterFiles([AdapterFile("lora", place / "lora.safetensors")]),
        "control_nets": [ControlNetFiles("edges", control_net(place / "edges"))],
        "ip_adapters": [IPAdapterFiles("look", shown / "look.safetensors", shown / "image_encoder")],
        "schedulers": [SchedulerKind("drawn", "FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True})],
    }
    path = resolve_model("Bundled", "digits", "")
    return load(path, **beside), load(path, **beside)


async def two(
    start: Start, models: Loaded, backend: str = "memory", **given: Any
) -> tuple[tuple[Worker, Stream], tuple[Worker, Stream]]:
    """Two workers of all roles."""
    first, second = [await start(model=model, **settings(backend, POOL_SIZE), **given) for model in models]
    return (first, await first.stream()), (second, await second.stream())


async def undisturbed(stream: Stream, source: stage_pb2.Descriptor, **request: object) -> peer_pb2.StageDone:
    await stream.execute(DENOISE, "undisturbed", source=source, **request)
    done = await stream.done("undisturbed")
    assert not done.HasField("parked")
    return done


async def parked(
    worker: Worker, stream: Stream, task_id: str, source: stage_pb2.Descriptor, at: int, **request: object
) -> stage_pb2.Descriptor:
    """A checkpoint after step `at`."""
    gate = worker.model.stop(SEED, at)
    await stream.execute(DENOISE, task_id, source=source, **request)
    await gate.reached()
    await stream.park(task_id)
    await stream.heard()
    gate.open()
    done = await stream.done(task_id)
    assert done.parked.step == at
    return done.output


async def kept(
    worker: Worker, stream: Stream, source: stage_pb2.Descriptor, at: Sequence[int], **request: object
) -> tuple[peer_pb2.StageDone, list[stage_pb2.Descriptor]]:
    """What one makes that goes on, and its checkpoints after these steps."""
    gates = [worker.model.stop(SEED, step) for step in at]
    await stream.execute(DENOISE, "keeps", source=source, **request)
    for step, gate in zip(at, gates, strict=True):
        await gate.reached()
        await stream.checkpoint("keeps", f"at {step}")
        await stream.heard()
        gate.open()
    done = await stream.done("keeps")
    assert not done.HasField("parked")
    checkpoints = [await stream.done(f"at {step}") for step in at]
    assert [checkpoint.parked.step for checkpoint in checkpoints] == list(at)
    return done, [checkpoint.output for checkpoint in checkpoints]


async def ended(stream: Stream, source: stage_pb2.Descriptor, **request: object) -> peer_pb2.StageDone:
    await stream.execute(DENOISE, "goes on", source=source, **request)
    done = await stream.done("goes on")
    assert not done.HasField("parked")
    return done


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def with_pictures(*names: str) -> dict[str, Any]:
    return {"inputs": [stage_pb2.InputFile(name=name, key=f"in/{name}", media_type="image/png") for name in names]}


@pytest.mark.parametrize("backend", here(BACKENDS))
async def test_however_the_checkpoint_comes(start: Start, digits: Loaded, backend: str) -> None:
    (worker, one), (_, other) = await two(start, digits, backend)
    source = await one.encoded()
    whole = await undisturbed(one, source)
    checkpoint = await parked(worker, one, "n", source, 2)
    done = await ended(other, checkpoint)
    assert done.output.digest == whole.output.digest
    assert (whole.timings.steps, done.timings.steps) == (4, 2)
    assert done.timings.transfer_bytes > 0


USES: dict[str, dict[str, Any]] = {
    "nothing else": {},
    "exact": {"exact": True},
    "a LoRA": {"adapters": [stage_pb2.Adapter(name="lora", scale=0.1)]},
    "a scheduler": {"scheduler": "drawn"},
    "a picture": with_pictures("image") | {"strength": 0.9},
    "a ControlNet": with_pictures("controls") | {"controls": [stage_pb2.Control(name="edges")]},
    "an IP-Adapter": with_pictures("ip_adapters") | {"ip_adapters": [stage_pb2.IPAdapter(name="look")]},
    "both": with_pictures("controls", "ip_adapters")
    | {"controls": [stage_pb2.Control(name="edges")], "ip_adapters": [stage_pb2.IPAdapter(name="look")]},
}


@pytest.mark.parametrize("use", USES)
async def test_whatever_it_is_computed_with(start: Start, router: ScriptedRouter, extended: Loaded, use: str) -> None:
    """Parked twice, to go on elsewhere and back at home."""
    router.files |= {f"in/{name}": picture(seed) for seed, name in enumerate(PICTURES)}
    request = {"num_inference_steps": 5} | USES[use]
    (first, one), (second, other) = await two(start, extended, batching_mode="Guidance")
    source = await one.encoded(**request)
    whole = await undisturbed(one, source, **request)
    assert all(report.progress.resumable for report in one.said("progress", "undisturbed"))
    away = await parked(first, one, "n", source, 1, **request)
    back = await parked(second, other, "away", away, 2, **request)
    done = await ended(one, back, **request)
    assert done.output.digest == whole.output.digest
    assert done.timings.steps == whole.timings.steps - 2


@pytest.mark.parametrize("use", USES)
async def test_one_that_goes_on_is_disturbed_by_no_checkpoint_and_each_leads_to_the_same(
    start: Start, router: ScriptedRouter, extended: Loaded, use: str
) -> None:
    router.files |= {f"in/{name}": picture(seed) for seed, name in enumerate(PICTURES)}
    request = {"num_inference_steps": 5} | USES[use]
    (first, one), (_, other) = await two(start, extended, batching_mode="Guidance")
    source = await one.encoded(**request)
    whole = await undisturbed(one, source, **request)
    # With a picture, its strength leaves fewer.
    at = range(1, whole.timings.steps)
    done, checkpoints = await kept(first, one, source, at, **request)
    assert (done.output.digest, done.timings.steps) == (whole.output.digest, whole.timings.steps)
    for step, checkpoint in zip(at, checkpoints, strict=True):
        await other.execute(DENOISE, f"from {step}", source=checkpoint, **request)
        again = await other.done(f"from {step}")
        assert (again.output.digest, again.timings.steps) == (whole.output.digest, whole.timings.steps - step)


async def test_in_the_pool_of_the_worker_that_goes_on(start: Start, digits: Loaded) -> None:
    (worker, stream), _ = await two(start, digits)
    source = await stream.encoded()
    whole = await undisturbed(stream, source)
    checkpoint = await parked(worker, stream, "n", source, 3)
    done = await ended(stream, checkpoint)
    assert done.output.digest == whole.output.digest
    assert done.timings.transfer_bytes == 0


async def test_parked_out_of_a_forward_that_it_shares(start: Start, router: ScriptedRouter, digits: Loaded) -> None:
    """What shares forwards is as it would be alone but for rounding, which no pixel shows."""
    (worker, one), (_, other) = await two(start, digits, batching_mode="Requests", max_requests=2)
    requests: list[dict[str, Any]] = [{"seed": SEED, "num_inference_steps": 6}, {"seed": 8, "num_inference_steps": 6}]
    sources = [await one.encoded(f"e{place}", **request) for place, request in enumerate(requests)]
    alone = []
    for place, request in enumerate(requests):
        await one.execute(DENOISE, f"alone {place}", source=sources[place], **request)
        alone.append((await one.done(f"alone {place}")).output)

    first, third = worker.model.stop(SEED, 1), worker.model.stop(SEED, 3)
    await one.execute(DENOISE, "parks", source=sources[0], **requests[0])
    await first.reached()
    await one.execute(DENOISE, "stays", source=sources[1], **requests[1])
    await one.step("stays", 0)
    first.open()
    await third.reached()
    await one.park("parks")
    await one.heard()
    third.open()
    checkpoint = await one.done("parks")
    assert checkpoint.parked.step == 3
    stays = await one.done("stays")
    # By itself in twice 6 steps, then in one and in 4; with the other in two.
    told = "diffusion_worker_forward_requests"
    await worker.until_metrics(f'{told}_bucket{{le="1.0",role="encoder+denoiser+decoder"}} 17.0')
    await worker.until_metrics(f'{told}_count{{role="encoder+denoiser+decoder"}} 19.0')
    done = await ended(other, checkpoint.output, **requests[0])
    for shared, by_itself in zip((done.output, stays.output), alone, strict=True):
        assert await pixels(router, one, shared) == pytest.approx(await pixels(router, one, by_itself), abs=1)


async def pixels(router: ScriptedRouter, stream: Stream, latents: stage_pb2.Descriptor) -> np.ndarray[Any, Any]:
    task_id = f"decode {latents.digest}"
    await stream.execute(DECODE, task_id, source=latents)
    (artifact,) = (await stream.done(task_id)).artifacts
    with Image.open(io.BytesIO(router.files[artifact.key])) as image:
        return np.asarray(image.convert("RGB"), np.int16)


def asked(request: Mapping[str, Any]) -> dict[str, Any]:
    """As the wire has it."""
    extra = {name: stage_pb2.Scalar(int_value=value) for name, value in request.get("extra", {}).items()}
    return {**request, "extra": extra}


@pytest.mark.parametrize("family", ["wan21", "cogvideox"])
async def test_a_video_model_cut_each_way(start: Start, family: str) -> None:
    path = ensure(FAMILIES[family].checkpoint)
    request = asked(FAMILIES[family].request) | {"num_inference_steps": 4, "seed": SEED, "output_format": "mp4"}
    (worker, one), (_, other) = await two(start, (load(path), load(path)), backend="tcp")
    await one.execute(ENCODE, "e", **request)
    source = (await one.done("e")).output
    whole = await undisturbed(one, source, **request)
    checkpoint = await parked(worker, one, "n", source, 2, **request)
    done = await ended(other, checkpoint, **request)
    assert done.output.digest == whole.output.digest
    assert (done.timings.steps, whole.timings.steps) == (2, 4)
    assert done.timings.resume_seconds > 0

    goes_on, checkpoints = await kept(worker, one, source, [1, 2, 3], **request)
    assert goes_on.output.digest == whole.output.digest
    await other.execute(DENOISE, "from the second", source=checkpoints[1], **request)
    assert (await other.done("from the second")).output.digest == whole.output.digest
