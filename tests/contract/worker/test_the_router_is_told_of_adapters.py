"""What a worker says of the adapters that it can compute with: when it registers, and when there is something new."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffusion_worker.model import AdapterFile, AdapterFiles, load_model, resolve_model
from diffusionpipeline.v1 import peer_pb2, stage_pb2
from diffusionpipeline.words import Stage

from .conftest import Start
from .scripted_router import ENCODE, ScriptedRouter, Stream

LAYERS = ("transformer.transformer_blocks.0.attn.to_q", "text_encoder.encoder.layers.0.self_attn.q_proj")


@pytest.fixture(scope="module")
def lora() -> Callable[[Path], Path]:
    import torch
    from safetensors.torch import save_file

    def lora(place: Path) -> Path:
        tensors = {}
        for layer, width in zip(LAYERS, (128, 64), strict=True):
            tensors |= {f"{layer}.lora_A.weight": torch.ones(4, width), f"{layer}.lora_B.weight": torch.ones(width, 4)}
        save_file(tensors, place)
        return place

    return lora


def told(stream: Stream) -> dict[str, peer_pb2.OfferedAdapter]:
    """As the router knows it: by the last report that says something."""
    said = [report.heartbeat.adapters for report in stream.said("heartbeat") if report.heartbeat.HasField("adapters")]
    return {one.name: one for one in (said[-1] if said else stream.register.adapters).offered}


async def test_listed_ones_are_loaded_and_a_folders_when_a_request_wants_them(
    start: Start, router: ScriptedRouter, lora: Callable[[Path], Path], tmp_path: Path
) -> None:
    files = AdapterFiles([AdapterFile("listed", lora(tmp_path / "listed.safetensors"), scale=0.5)], tmp_path / "more")
    (tmp_path / "more").mkdir()
    lora(tmp_path / "more" / "early.safetensors")
    model: Any = load_model(
        path=resolve_model("Bundled", "digits", ""),
        stages=frozenset(Stage),
        dtype="float32",
        device="cpu",
        adapters=files,
    )
    stream = await (await start(model=model)).stream()
    assert [(one.name, one.scale, one.loaded) for one in stream.register.adapters.offered] == [
        ("early", 1.0, False),
        ("listed", 0.5, True),
    ]
    assert stream.register.adapters.offered[1].bytes > 1000
    assert stream.register.adapters.offered[1].load_seconds > 0

    lora(tmp_path / "more" / "late.safetensors")
    await stream.until(lambda: "late" in told(stream), "word of what was put into the folder")
    wanted = [stage_pb2.Adapter(name="late"), stage_pb2.Adapter(name="listed", scale=0.1)]
    await stream.execute(ENCODE, "e", adapters=wanted)
    await stream.done("e")
    await stream.until(lambda: told(stream)["late"].loaded, "word that it is loaded")
    assert told(stream)["late"].load_seconds > 0
    assert not told(stream)["early"].loaded

    await stream.execute(ENCODE, "wrong", adapters=[stage_pb2.Adapter(name="none")])
    assert await stream.failed("wrong") == "INVALID_REQUEST"
    assert "adapters[0].name: there is no adapter 'none'" in (await stream.failure("wrong")).message
    said = len([one for one in stream.said("heartbeat") if one.heartbeat.HasField("adapters")])
    assert said <= 3, "what is not new is not said again"


async def test_a_model_without_any_says_nothing(start: Start) -> None:
    stream = await (await start()).stream()
    assert not stream.register.HasField("adapters")


@pytest.mark.parametrize(
    "wrong",
    [
        [{"name": "a/b", "source": "Path", "id": "/x"}],
        [{"name": "a", "source": "Url", "id": "http://x"}],
        [{"name": "a", "source": "Path", "id": "/x", "file": "../secret"}],
        [{"name": "a", "source": "Path", "id": "/x"}] * 2,
        [{"name": "a", "source": "Path", "id": "/x", "scale": "NaN"}],
    ],
    ids=["a path for a name", "no such source", "a path for a file", "a name twice", "no number"],
)
def test_settings_are_refused(wrong: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusion_worker.settings import Settings

    monkeypatch.setenv("DIFFUSION_WORKER_ADAPTERS", json.dumps(wrong))
    monkeypatch.setenv("DIFFUSION_WORKER_ROLES", "denoiser")
    with pytest.raises(ValueError, match="adapters"):
        Settings()
