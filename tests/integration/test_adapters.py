"""Two denoisers that load adapters as requests want them: right bytes under mixed load, and few loads."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import save_file

from diffusion_worker.model import AdapterFile, AdapterFiles, Parameters, Wanted, load_model, resolve_model
from diffusion_worker.model.driving import Direct
from diffusionpipeline.words import STAGES
from testbed.examples import resource
from testbed.pipelines import at_rest, draw, metric, peers, running
from testbed.waiting import until

Named = tuple[tuple[str, float | None], ...]

LAYERS = ("transformer.transformer_blocks.0.attn.to_v", "text_encoder.encoder.layers.0.self_attn.q_proj")
SETS: tuple[Named, ...] = (
    (),
    (("listed", None),),
    (("hot-0", None),),
    (("hot-1", 0.5),),
    (("hot-0", 0.3), ("hot-1", -0.6)),
    (("listed", 0.2), ("hot-2", 1.5)),
)
ROUNDS = 5

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("mode", ["Guidance", pytest.param("Requests", marks=pytest.mark.thorough)])
async def test_each_request_gets_its_own_adapters_and_denoisers_keep_what_they_loaded(
    mode: str, tmp_path: Path
) -> None:
    listed = AdapterFile("listed", _lora(tmp_path / "listed.safetensors", 0), scale=0.7)
    folder = tmp_path / "folder"
    for number in range(3):
        _lora(folder / f"hot-{number}.safetensors", 1 + number)
    expected = whole(AdapterFiles([listed], folder))
    assert len(set(expected.values())) == len(SETS)

    document = resource(
        "digits",
        model__adapters=[{"name": "listed", "source": "Path", "id": str(listed.path), "scale": 0.7}],
        model__adapterSource={"path": str(folder)},
        model__maxLoadedAdapters=2,
        roles__denoiser__replicas=2,
        roles__denoiser__batching={"mode": mode},
    )
    with running(document, tmp_path / "data") as local:
        async with httpx.AsyncClient(base_url=local.http_url, timeout=60) as client:
            orders = [*SETS] * ROUNDS
            random.Random(1).shuffle(orders)
            asked = [draw(client, "a red seven", 7, exact=True, adapters=_named(one)) for one in orders]
            for wanted, answer in zip(orders, await asyncio.gather(*asked), strict=True):
                assert answer.picture == expected[wanted], wanted
            models = (await client.get("/v1/models")).json()["data"]
        assert {one["id"] for one in models[1:]} == {"listed", "hot-0", "hot-1", "hot-2"}
        until(lambda: at_rest(local), 15, "slots, outputs and tasks are given back")
        # Of the folder's, each denoiser's second report comes later than a job's end.
        until(lambda: metric(local.http_url, "diffusion_router_adapter_loads_total") >= 3, 15, "loads are told")
        hot = ROUNDS * sum(name.startswith("hot") for one in SETS for name, _ in one)
        assert metric(local.http_url, "diffusion_router_adapter_loads_total") < hot
        assert len(peers(local)) == 4


def whole(files: AdapterFiles) -> dict[Named, bytes]:
    """What one process makes of each set."""
    model = load_model(
        path=resolve_model("Bundled", "digits", ""),
        stages=frozenset(STAGES),
        dtype="float32",
        device="cpu",
        adapters=files,
    )
    made = {}
    for wanted in SETS:
        request = Parameters(prompt="a red seven", seed=7, adapters=[Wanted(*one) for one in wanted])
        (picture,) = model.decode(model.denoise(model.encode(request), request, Direct()))
        made[wanted] = picture.data
    return made


def _named(wanted: Named) -> list[dict[str, object]]:
    return [{"name": name} if scale is None else {"name": name, "scale": scale} for name, scale in wanted]


def _lora(place: Path, seed: int) -> Path:
    draws = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer, width in zip(LAYERS, (128, 64), strict=True):
        tensors[f"{layer}.lora_A.weight"] = torch.randn(4, width, generator=draws) * 0.3
        tensors[f"{layer}.lora_B.weight"] = torch.randn(width, 4, generator=draws) * 0.3
    place.parent.mkdir(exist_ok=True)
    save_file(tensors, place)
    return place
