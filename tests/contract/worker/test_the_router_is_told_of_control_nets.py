"""What a worker says of its ControlNets, and what it makes of a task that names one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffusion_worker.model import Control, ControlNetFiles, load_model, resolve_model
from diffusion_worker.settings import Settings
from diffusion_worker.work.tasks import parameters
from diffusionpipeline.v1 import peer_pb2, stage_pb2
from diffusionpipeline.words import Stage
from testbed.led_digits import control_net

from .conftest import Start
from .scripted_router import ENCODE, ScriptedRouter


async def test_they_are_told_by_name_and_a_task_without_its_picture_fails_by_field(
    start: Start, router: ScriptedRouter, tmp_path: Path
) -> None:
    listed = [{"name": name, "source": "Path", "id": str(control_net(tmp_path / name))} for name in ("edges", "depth")]
    model = load_model(
        path=resolve_model("Bundled", "digits", ""),
        stages=frozenset(Stage),
        dtype="float32",
        device="cpu",
        control_nets=[ControlNetFiles(one["name"], Path(one["id"])) for one in listed],
    )
    stream = await (await start(model=model, control_nets=listed)).stream()
    assert stream.register.adapters == peer_pb2.Adapters(control_nets=["edges", "depth"])
    led = [sorted(one.inputs) for one in stream.register.workflows if "controls" in one.inputs]
    assert led == [["controls"], ["controls", "image"], ["controls", "image", "mask_image"]]
    await stream.execute(ENCODE, "bare", controls=[stage_pb2.Control(name="edges")])
    assert await stream.failed("bare") == "INVALID_REQUEST"
    assert "controls[0].image: needed" in (await stream.failure("bare")).message
    said = [one for one in stream.said("heartbeat") if one.heartbeat.HasField("adapters")]
    assert not said, "what is not new is not said again"


def test_each_control_has_the_picture_of_its_place() -> None:
    from PIL import Image

    one, other = (Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (1, 2))
    controls = [stage_pb2.Control(name="a", scale=0.0, start=0.25, mode=0), stage_pb2.Control(name="b", end=0.5)]
    message = stage_pb2.JobParameters(prompt="x", controls=controls)
    read = parameters(message, {"controls": [one, other], "image": other})
    assert read.controls == (
        Control(name="a", image=one, scale=0.0, start=0.25, mode=0),
        Control(name="b", image=other, end=0.5),
    )
    assert read.images == {"image": other}
    alone = parameters(stage_pb2.JobParameters(controls=controls[:1]), {"controls": one})
    assert [control.image for control in alone.controls] == [one]
    later = parameters(message, {"controls": None})
    assert [(control.name, control.image) for control in later.controls] == [("a", None), ("b", None)]


@pytest.mark.parametrize(
    "wrong",
    [
        [{"name": "a/b", "source": "Path", "id": "/x"}],
        [{"name": "a", "source": "Url", "id": "http://x"}],
        [{"name": "a", "source": "Path", "id": "/x", "subfolder": "../secret"}],
        [{"name": "a", "source": "Path", "id": "/x"}] * 2,
        [{"name": "a", "source": "Path", "id": "/x", "scale": "NaN"}],
    ],
    ids=["a path for a name", "no such source", "a path out of the folder", "a name twice", "no number"],
)
def test_settings_are_refused(wrong: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFUSION_WORKER_CONTROL_NETS", json.dumps(wrong))
    monkeypatch.setenv("DIFFUSION_WORKER_ROLES", "denoiser")
    with pytest.raises(ValueError, match="control_nets"):
        Settings()
